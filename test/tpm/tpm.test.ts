import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { openTransport } from '../../src/tpm/open.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';
import { bareResponse, DyingTransport, ScriptedTransport } from '../fakes/transports.ts';
import { scratchDirectory, softwareTpm } from '../lab/lab.ts';

const noWait = { delay: () => Promise.resolve() };

describe('reading the endorsement key', () => {
  it('gives what stands at 0x81010001, with one command', async (t) => {
    const chip = await softwareTpm(t);
    const dir = await scratchDirectory(t);
    const before = [chip.handles('persistent'), chip.handles('transient')];
    await chip.use(async (tpm) => {
      const key = await tpm.readEndorsementKey();
      assert.deepEqual(tpm.commandsSent, ['ReadPublic']);
      assert.equal(key.handle, 0x81010001);
      writeFileSync(join(dir, 'ours'), key.publicArea);
    });
    chip.tool('tpm2_readpublic', '-c', '0x81010001', '-f', 'tss', '-o', join(dir, 'theirs'));
    assert.deepEqual(readFileSync(join(dir, 'ours')), readFileSync(join(dir, 'theirs')));
    assert.deepEqual([chip.handles('persistent'), chip.handles('transient')], before);
  });

  it('derives what tpm2_createek makes where nothing stands there, and leaves nothing behind', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    const ours = await chip.use(async (tpm) => {
      const key = await tpm.readEndorsementKey();
      assert.deepEqual(tpm.commandsSent, ['ReadPublic', 'CreatePrimary', 'FlushContext']);
      assert.equal(key.handle, null);
      return key.publicArea;
    });
    assert.equal(chip.handles('persistent') + chip.handles('transient'), '');
    chip.tool('tpm2_createek', '-G', 'rsa', '-f', 'tss', '-u', join(dir, 'ek'), '-c', join(dir, 'ek.ctx'));
    assert.deepEqual(ours, readFileSync(join(dir, 'ek')));
  });

  it('keeps the derived key only when told to', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const derived = await chip.use((tpm) => tpm.readEndorsementKey());
    const kept = await chip.use((tpm) => tpm.readEndorsementKey({ persist: true }));
    assert.equal(kept.handle, 0x81010001);
    assert.deepEqual(kept.publicArea, derived.publicArea);
    assert.match(chip.handles('persistent'), /^- 0x81010001\s*$/);
    assert.equal(chip.handles('transient'), '');
    const again = await chip.use((tpm) => tpm.readEndorsementKey({ persist: true }));
    assert.equal(registrationIdOf(again.publicArea), registrationIdOf(derived.publicArea));
  });

  it('refuses another kind of key at the handle', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'ecc', '-c', join(dir, 'key.ctx'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'key.ctx'), '0x81010001');
    await assert.rejects(
      chip.use((tpm) => tpm.readEndorsementKey()),
      { code: 'tpm.ek-unsuitable' },
    );
  });

  it('works through tpm2_send, the far end of cmd:', async (t) => {
    const chip = await softwareTpm(t);
    const direct = await chip.use((tpm) => tpm.readEndorsementKey());
    const transport = await openTransport(parseTcti(`cmd:tpm2_send -T ${chip.tcti}`), 20_000);
    const tpm = new Tpm(transport);
    assert.deepEqual((await tpm.readEndorsementKey()).publicArea, direct.publicArea);
    assert.equal((await tpm.readStorageRootKey()).handle, null);
    await tpm.close();
  });
});

describe('authorization of the hierarchies', () => {
  it('is asked for, used, and leaves nothing behind when it is wrong', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    chip.tool('tpm2_changeauth', '-c', 'e', 'endorsed');
    chip.tool('tpm2_changeauth', '-c', 'o', 'owned');
    await assert.rejects(
      chip.use((tpm) => tpm.readEndorsementKey()),
      { code: 'tpm.authorization', message: /TPM_RC_BAD_AUTH \(session 1\)/ },
    );
    const endorsement = Buffer.from('endorsed');
    // The key is derived, but may not be kept without the owner's authorization.
    await assert.rejects(
      chip.use((tpm) => tpm.readEndorsementKey({ persist: true }), { auth: { endorsement } }),
      { code: 'tpm.authorization' },
    );
    assert.equal(chip.handles('transient') + chip.handles('persistent'), '');
    const owner = Buffer.from('owned');
    await chip.use((tpm) => tpm.readEndorsementKey({ persist: true }), { auth: { endorsement, owner } });
    assert.match(chip.handles('persistent'), /0x81010001/);
  });
});

describe('a TPM in trouble', () => {
  it('with its transient slots used up is reported as that', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    for (let count = 0; count < 3; count += 1) {
      chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'ecc', '-c', join(dir, `${count}.ctx`));
    }
    const before = chip.handles('transient');
    await assert.rejects(
      chip.use((tpm) => tpm.readEndorsementKey()),
      { code: 'tpm.transient-full' },
    );
    assert.equal(chip.handles('transient'), before);
  });

  it('that is busy is asked again, and given up in the end', async () => {
    const busy = Array.from({ length: 3 }, () => bareResponse(0x922));
    const recovering = new ScriptedTransport([...busy, bareResponse(0x18b)]);
    assert.equal(await new Tpm(recovering, noWait).readPublic(0x81010001), undefined);
    assert.equal(recovering.sent.length, 4);
    assert.ok(recovering.sent.every((command) => command.equals(recovering.sent[0] ?? Buffer.alloc(0))));

    for (const code of [0x908, 0x90a, 0x922]) {
      const stubborn = new ScriptedTransport(Array.from({ length: 100 }, () => bareResponse(code)));
      await assert.rejects(new Tpm(stubborn, noWait).readPublic(0x81010001), {
        code: 'tpm-unavailable.busy',
        effect: 'refused',
      });
      assert.ok(stubborn.sent.length < 30, `0x${code.toString(16)}`);
    }
  });

  it('that is busy is not asked again once the user wants to leave', async () => {
    const stubborn = new ScriptedTransport(Array.from({ length: 100 }, () => bareResponse(0x922)));
    const interrupt = new AbortController();
    const delay = (): Promise<void> => {
      interrupt.abort();
      return Promise.resolve();
    };
    const tpm = new Tpm(stubborn, { delay, signal: interrupt.signal });
    await assert.rejects(tpm.readPublic(0x81010001), { code: 'tpm-unavailable.busy' });
    assert.equal(stubborn.sent.length, 2);
  });

  it('that was not started, is locked out or failed says so', async () => {
    const cases: [number, string, string][] = [
      [0x100, 'tpm-unavailable.not-started', 'refused'],
      // It may have failed in the middle of it.
      [0x101, 'tpm-unavailable.failure-mode', 'unknown'],
      [0x921, 'tpm.lockout', 'refused'],
      [0x14b, 'tpm.no-room', 'refused'],
      [0x143, 'tpm.unsupported', 'refused'],
      [0x01e, 'tpm-unavailable.not-tpm2', 'refused'],
    ];
    for (const [response, code, effect] of cases) {
      await assert.rejects(new Tpm(new ScriptedTransport([bareResponse(response)]), noWait).readPublic(1), {
        code,
        effect,
      });
    }
  });

  it('that answers with every kind of malformed response ends in an error, never in a crash', async (t) => {
    const chip = await softwareTpm(t);
    const recorded: Buffer[] = [];
    const transport = await chip.transport();
    const recorder = {
      name: transport.name,
      send: async (command: Buffer) => {
        const response = await transport.send(command);
        recorded.push(response);
        return response;
      },
      close: () => transport.close(),
    };
    const tpm = new Tpm(recorder);
    await tpm.readPublic(0x81010001);
    await tpm.handles(0x81000000, 10);
    await tpm.properties(0x100, 10);
    await tpm.close();
    const calls = [
      (broken: Tpm) => broken.readPublic(0x81010001),
      (broken: Tpm) => broken.handles(0x81000000, 10),
      (broken: Tpm) => broken.properties(0x100, 10),
    ];
    for (const [index, call] of calls.entries()) {
      const good = recorded[index] ?? Buffer.alloc(0);
      for (let length = 10; length < good.length; length += 1) {
        const cut = Buffer.from(good.subarray(0, length));
        cut.writeUInt32BE(length, 2);
        await assert.rejects(call(new Tpm(new ScriptedTransport([cut]))), {
          code: 'tpm-unavailable.protocol',
          effect: 'unknown',
        });
      }
      for (let at = 10; at < good.length; at += 1) {
        const damaged = Buffer.from(good);
        damaged[at] = (damaged[at] ?? 0) ^ 0xff;
        // A flipped byte may still be a well-formed list of handles; it must not be anything worse.
        await call(new Tpm(new ScriptedTransport([damaged]))).catch((error: unknown) => {
          assert.equal((error as { code?: string }).code, 'tpm-unavailable.protocol');
        });
      }
    }
  });

  it('names a key whose bytes were changed on the way as no key of its', async (t) => {
    const chip = await softwareTpm(t);
    const transport = await chip.transport();
    const lying = {
      name: 'lying TPM',
      send: async (command: Buffer) => {
        const response = await transport.send(command);
        const at = response.length - 100;
        response[at] = (response[at] ?? 0) ^ 1;
        return response;
      },
      close: () => transport.close(),
    };
    const tpm = new Tpm(lying);
    await assert.rejects(tpm.readEndorsementKey(), { code: 'tpm-unavailable.protocol' });
    await tpm.close();
  });
});

describe('an interrupted job', () => {
  it('flushes what it has loaded and begins nothing new', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const interrupt = new AbortController();
    await assert.rejects(
      chip.use((tpm) => tpm.readEndorsementKey({ persist: true }), {
        signal: interrupt.signal,
        onCommand: ({ command }) => {
          if (command === 'CreatePrimary') interrupt.abort();
        },
      }),
      { code: 'interrupted.signal', effect: 'none' },
    );
    assert.equal(chip.handles('transient') + chip.handles('persistent'), '');
  });

  it('knows what it may have left loaded', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    // What derives a key sends CreatePrimary after a look at the handle, and flushes it then.
    for (const [cutAt, moment, isLeft] of [
      [0, 'before', false],
      [1, 'before', true],
      [1, 'after', true],
      [2, 'before', true],
    ] as const) {
      const tpm = new Tpm(new DyingTransport(await chip.transport(), cutAt, moment));
      await assert.rejects(tpm.readEndorsementKey());
      assert.equal(tpm.mayHaveLeftLoaded, isLeft, `cut ${moment} command ${cutAt}`);
      await tpm.close();
      chip.tool('tpm2_flushcontext', '-t');
    }
    await chip.use(async (tpm) => {
      await tpm.readEndorsementKey();
      assert.equal(tpm.mayHaveLeftLoaded, false);
    });
  });

  it('reports a cut connection as that', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    for (const moment of ['before', 'after'] as const) {
      const tpm = new Tpm(new DyingTransport(await chip.transport(), 1, moment));
      await assert.rejects(tpm.readEndorsementKey(), { code: 'tpm-unavailable.connection' });
      await tpm.close();
      chip.tool('tpm2_flushcontext', '-t');
    }
  });
});
