import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import koffi from 'koffi';
import { IotdmError } from '../../src/errors.ts';
import { openTransport } from '../../src/tpm/open.ts';
import { responseError } from '../../src/tpm/response-code.ts';
import { describeTbsCode, tbsCodes, tbsError } from '../../src/tpm/tbs-code.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import { bindTbsLibrary, type ForeignFunction } from '../../src/tpm/transports/tbs-library.ts';
import { FakeTbs } from '../fakes/tbs.ts';
import { bareResponse } from '../fakes/transports.ts';
import { softwareTpm } from '../lab/lab.ts';

const command = Buffer.from('80010000000c0000017b0004', 'hex');
const response = Buffer.from('8001000000100000000000040a0b0c0d', 'hex');
const SHORT_MS = 150;

const answering = (bytes: Buffer, result = 0): FakeTbs =>
  new FakeTbs(() => Promise.resolve({ result, response: bytes }));

describe('the TPM of a Windows machine', () => {
  it('is the default there, and tbs elsewhere is refused', async () => {
    const tbs = answering(response);
    const transport = await openTransport(undefined, SHORT_MS, { platform: 'win32', loadTbs: tbs.load });
    assert.equal(transport.name, 'tbs');
    assert.deepEqual(await transport.send(command), response);
    await transport.close();
    assert.deepEqual(tbs.calls, ['create', 'submit', 'close']);
    await assert.rejects(openTransport({ kind: 'tbs' }, SHORT_MS, { platform: 'linux', loadTbs: tbs.load }), {
      code: 'usage.unsupported',
    });
  });

  it('behaves like any other TPM above the library', async (t) => {
    const software = await softwareTpm(t);
    const swtpm = await software.transport();
    const tbs = new FakeTbs(async (bytes) => ({ result: 0, response: await swtpm.send(bytes) }));
    const tpm = new Tpm(
      await openTransport({ kind: 'tbs' }, 20_000, { platform: 'win32', loadTbs: tbs.load }),
    );
    const ek = await tpm.readEndorsementKey();
    await tpm.close();
    await swtpm.close();
    assert.match(software.tool('tpm2_readpublic', '-c', '0x81010001'), new RegExp(ek.name.toString('hex')));
    assert.equal(tbs.calls.at(-1), 'close');
  });

  it('that is not there, or not ours to use, is explained when it is opened', async () => {
    const refusals: [number, string][] = [
      [0x8028400f, 'tpm-unavailable.not-found'],
      [0x80284008, 'tpm-unavailable.connection'],
      [0x80284012, 'tpm-unavailable.permission'],
      [0x80284009, 'tpm-unavailable.busy'],
      [0x80070005, 'tpm-unavailable.connection'],
    ];
    for (const [result, code] of refusals) {
      const tbs = answering(response);
      tbs.createResult = result;
      await assert.rejects(
        openTransport({ kind: 'tbs' }, SHORT_MS, { platform: 'win32', loadTbs: tbs.load }),
        {
          code,
        },
      );
    }
  });

  it('that blocks a command says so, as a result or as a response of its own', async () => {
    for (const tbs of [answering(Buffer.alloc(0), 0x80280400), answering(bareResponse(0x80280400))]) {
      const tpm = new Tpm(
        await openTransport({ kind: 'tbs' }, SHORT_MS, { platform: 'win32', loadTbs: tbs.load }),
      );
      await assert.rejects(tpm.readPublic(0x81000001), {
        code: 'tpm-unavailable.permission',
        message: /TPM_E_COMMAND_BLOCKED/,
        effect: 'refused',
      });
      await tpm.close();
    }
  });

  it('that answers short, long, or nothing at all ends in an error', async () => {
    for (const bytes of [
      Buffer.alloc(0),
      response.subarray(0, 9),
      response.subarray(0, 15),
      Buffer.concat([response, response]),
      Buffer.alloc(4096, 0x80),
    ]) {
      const tbs = answering(bytes);
      const transport = await openTransport({ kind: 'tbs' }, SHORT_MS, {
        platform: 'win32',
        loadTbs: tbs.load,
      });
      await assert.rejects(transport.send(command), {
        code: 'tpm-unavailable.protocol',
        effect: 'unknown',
      });
      await transport.close();
    }
  });

  it('that fails says whether the command may have gone on to the TPM', async () => {
    for (const [result, effect] of [
      [0x80284006, 'unknown'],
      [0x8028400d, 'unknown'],
      [0x800706ba, 'unknown'],
      [0x8028400a, 'refused'],
      [0x80284012, 'refused'],
    ] as const) {
      const transport = await openTransport({ kind: 'tbs' }, SHORT_MS, {
        platform: 'win32',
        loadTbs: answering(Buffer.alloc(0), result).load,
      });
      await assert.rejects(transport.send(command), { effect }, result.toString(16));
      await assert.rejects(transport.send(command), { effect: 'none' }, result.toString(16));
      await transport.close();
    }
  });

  it('that never answers is cancelled, stays dead, and is closed only when the call has ended', async () => {
    let end: () => void = () => undefined;
    const tbs = new FakeTbs(
      () =>
        new Promise((resolve) => {
          end = () => {
            resolve({ result: 0x8028400d, response: Buffer.alloc(0) });
          };
        }),
    );
    const transport = await openTransport({ kind: 'tbs' }, SHORT_MS, {
      platform: 'win32',
      loadTbs: tbs.load,
    });
    await assert.rejects(transport.send(command), { code: 'tpm-unavailable.timeout', effect: 'unknown' });
    await assert.rejects(transport.send(command), { code: 'tpm-unavailable.timeout', effect: 'none' });
    await transport.close();
    assert.deepEqual(tbs.calls, ['create', 'submit', 'cancel']);
    end();
    await new Promise(setImmediate);
    assert.deepEqual(tbs.calls, ['create', 'submit', 'cancel', 'close']);
  });

  it('whose library fails in the call is a connection error', async () => {
    const tbs = new FakeTbs(() => Promise.reject(new Error('out of threads')));
    const transport = await openTransport({ kind: 'tbs' }, SHORT_MS, {
      platform: 'win32',
      loadTbs: tbs.load,
    });
    await assert.rejects(transport.send(command), { code: 'tpm-unavailable.connection', effect: 'unknown' });
    await transport.close();
    assert.equal(tbs.calls.at(-1), 'close');
  });
});

describe('the codes of the TPM Base Services', () => {
  it('have a name, a meaning and an error each', () => {
    for (const code of tbsCodes) {
      const described = describeTbsCode(code);
      assert.match(described?.name ?? '', /^(TBS|TPM)_E_[A-Z_]+$/);
      assert.equal(tbsError('Tbsip_Submit_Command', code).code, described?.errorCode);
      assert.equal(responseError('ReadPublic', code).code, described?.errorCode);
    }
    assert.equal(describeTbsCode(-2144845809)?.name, 'TBS_E_TPM_NOT_FOUND');
    assert.equal(describeTbsCode(0x80284000), undefined);
    assert.match(tbsError('Tbsi_Context_Create', 0x80070005).message, /0x80070005/);
    assert.ok(tbsError('Tbsi_Context_Create', 0x80070005) instanceof IotdmError);
  });
});

describe('the declarations of tbs.dll', () => {
  it('carry parameters and results as C has them', async () => {
    const seen: unknown[] = [];
    const functions: Readonly<Record<string, (...args: never[]) => number>> = {
      Tbsi_Context_Create: (params: bigint, context: bigint) => {
        seen.push(Buffer.from(koffi.decode(params, 'uint8_t', 8) as Uint8Array).toString('hex'));
        koffi.encode(context, 'uintptr_t', 0x1234);
        return 0;
      },
      Tbsip_Submit_Command: (
        context: bigint,
        locality: number,
        priority: number,
        bytes: bigint,
        length: number,
        answer: bigint,
        capacity: bigint,
      ) => {
        const received = Buffer.from(koffi.decode(bytes, 'uint8_t', length) as Uint8Array).toString('hex');
        seen.push([Number(context), locality, priority, received, koffi.decode(capacity, 'uint32_t')]);
        koffi.encode(answer, 'uint8_t', [...response], response.length);
        koffi.encode(capacity, 'uint32_t', response.length);
        return 0;
      },
      Tbsip_Cancel_Commands: (context: bigint) => {
        seen.push(['cancel', Number(context)]);
        return 0x8028400d;
      },
      Tbsip_Context_Close: (context: bigint) => {
        seen.push(['close', Number(context)]);
        return 0;
      },
    };
    const library = bindTbsLibrary((declaration) => {
      const name = / (\w+)\(/.exec(declaration)?.[1] ?? '';
      const type = koffi.proto(declaration);
      const pointer = koffi.register(functions[name] as () => number, koffi.pointer(type));
      return koffi.decode(pointer, type) as ForeignFunction;
    });
    const { result, context } = library.createContext();
    assert.equal(result, 0);
    assert.deepEqual(await library.submitCommand(context, command, 4096), { result: 0, response });
    assert.equal(library.cancelCommands(context), 0x8028400d);
    assert.equal(library.closeContext(context), 0);
    assert.deepEqual(seen, [
      '0200000004000000',
      [0x1234, 0, 200, command.toString('hex'), 4096],
      ['cancel', 0x1234],
      ['close', 0x1234],
    ]);
  });
});
