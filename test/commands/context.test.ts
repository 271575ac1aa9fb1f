/* What a command opens: once however many ask, with the options that each asks for, and closed whatever fails. */
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { Context } from '../../commands/shared/context.ts';
import { resolveSettings } from '../../commands/shared/settings.ts';
import { answering, startLyingServer } from '../fakes/lying-server.ts';
import { scratchDirectory } from '../lab/lab.ts';

interface Opened {
  readonly context: Context;
  readonly stdin: PassThrough;
  /** What stood on standard error so far. */
  readonly said: () => string;
}

function contextOf(
  environment: Record<string, string>,
  flags: Readonly<Record<string, unknown>> = {},
): Opened {
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
  let text = '';
  stderr.on('data', (bytes: Buffer) => (text += bytes.toString()));
  const host = {
    stdin,
    stdout,
    stderr,
    environment,
    signal: new AbortController().signal,
    clock: () => new Date(0),
    tool: 'iotdm/0.1.0',
    self: [],
  };
  return { context: new Context(host, resolveSettings(flags, environment)), stdin, said: () => text };
}

/** Takes connections, as a software TPM does that is not asked anything. */
async function listening(t: TestContext): Promise<{ tcti: string; made(): number; open(): number }> {
  let made = 0;
  let open = 0;
  const server = createServer((socket) => {
    made += 1;
    open += 1;
    socket.on('error', () => undefined).on('close', () => (open -= 1));
    socket.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  return { tcti: `swtpm:host=127.0.0.1,port=${port}`, made: () => made, open: () => open };
}

const locks = (state: string): string[] => readdirSync(state).filter((name) => name.endsWith('.lock'));

describe('a TPM that a command opens', () => {
  it('and that is there only when the command has ended, is closed then, and the lock is not waited for', async (t) => {
    const [state, tpm] = [await scratchDirectory(t), await listening(t)];
    const first = contextOf({ IOTDM_TPM: tpm.tcti, IOTDM_STATE_DIR: state });
    await first.context.openTpmToChange();
    const { context } = contextOf({ IOTDM_TPM: tpm.tcti, IOTDM_STATE_DIR: state }, { wait: 300 });
    const [late, waiting] = [context.openTpm(), context.openTpmToChange()];
    const [lateEnd, waitingEnd] = [late, waiting].map((opening) =>
      assert.rejects(opening, { code: 'interrupted.signal' }),
    );
    await context.close();
    await Promise.all([lateEnd, waitingEnd]);
    assert.equal(locks(state).length, 1, 'that of the first one');
    await first.context.close();
    for (let turn = 0; turn < 100 && tpm.open() > 0; turn += 1) await new Promise(setImmediate);
    assert.equal(tpm.open(), 0);
  });

  it('is one connection and one lock, however many ask at once', async (t) => {
    const [state, tpm] = [await scratchDirectory(t), await listening(t)];
    const { context } = contextOf({ IOTDM_TPM: tpm.tcti, IOTDM_STATE_DIR: state });
    const opened = await Promise.all([
      context.openTpm(),
      context.openTpmToChange(),
      context.openSlotsToChange().then((slots) => slots.tpm),
      context.openTpm(),
    ]);
    assert.equal(new Set(opened).size, 1);
    assert.equal(tpm.made(), 1);
    assert.equal(locks(state).length, 1);
    await context.close();
    assert.deepEqual(locks(state), []);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(tpm.open(), 0);
  });

  it('is asked for anew where it was not to be had', async (t) => {
    const path = join(await scratchDirectory(t), 'socket');
    const { context } = contextOf({ IOTDM_TPM: `swtpm:path=${path}` });
    await assert.rejects(context.openTpm(), { code: 'tpm-unavailable.connection' });
    const server = createServer((socket) => socket.resume()).listen(path);
    t.after(() => server.close());
    await new Promise((resolve) => server.once('listening', resolve));
    await context.openTpm();
    await context.close();
  });

  it('that fails to close keeps neither lock nor service, and hides nothing of the result', async (t) => {
    const [state, chip, server] = [await scratchDirectory(t), await listening(t), await startLyingServer()];
    t.after(() => server.close());
    const ca = join(state, 'ca.pem');
    writeFileSync(ca, server.ca);
    const { context, said } = contextOf({
      IOTDM_TPM: chip.tcti,
      IOTDM_STATE_DIR: state,
      IOTDM_CA: ca,
      IOTDM_DPS_CONNECTION_STRING: connectionString(server.host),
    });
    const tpm = await context.openTpmToChange();
    const service = await context.openService();
    const failing = t.mock.method(tpm, 'close', () => Promise.reject(new Error('EIO')));
    t.after(async () => {
      failing.mock.restore();
      await tpm.close();
    });
    server.answer(() => undefined);
    const call = service.find('x');
    await context.close();
    assert.deepEqual(locks(state), []);
    await assert.rejects(call, { code: 'interrupted.signal' });
    assert.match(said(), /^iotdm: warning: the connection to the TPM could not be closed: EIO$/m);
  });
});

function connectionString(host: string): string {
  const key = Buffer.alloc(32, 1).toString('base64');
  return `HostName=${host};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=${key}`;
}

describe('a service that a command opens', () => {
  it('is one client for those who ask for the same, and has for others the options that they ask for', async (t) => {
    const [dir, server] = [await scratchDirectory(t), await startLyingServer()];
    t.after(() => server.close());
    const ca = join(dir, 'ca.pem');
    writeFileSync(ca, server.ca);
    // Standard input can be read once only, whoever comes first.
    const flags = { dpsConnectionStringFile: '-', ca };
    const { context, stdin, said } = contextOf({}, flags);
    stdin.end(connectionString(server.host));
    const [patient, impatient, again] = await Promise.all([
      context.openService(),
      context.openService({ attempts: 1, maxSockets: 1 }),
      context.openService({ maxSockets: 1, attempts: 1 }),
    ]);
    assert.notEqual(patient, impatient);
    assert.equal(impatient, again);
    assert.equal(await context.openService(), patient);
    server.answer(answering(429, {}, { 'retry-after': '0' }), answering(404, {}));
    await assert.rejects(impatient.find('x'), { code: 'network.throttled' });
    server.answer(answering(429, {}, { 'retry-after': '0' }), answering(404, {}));
    assert.equal(await patient.find('x'), undefined);
    await context.close();
    for (const service of [patient, impatient]) {
      await assert.rejects(service.find('x'), { code: 'interrupted.signal' });
    }
    assert.equal(said(), '');
  });
});
