import assert from 'node:assert/strict';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { IotdmError } from '../../src/errors.ts';
import { openTransport } from '../../src/tpm/open.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';
import type { DeviceFile } from '../../src/tpm/transports/device.ts';
import { listenOnPair } from '../fakes/mssim-proxy.ts';
import { iotdm, scratchDirectory } from '../lab/lab.ts';

const command = Buffer.from('80010000000c0000017b0004', 'hex');
/** TPM2_GetRandom's answer with four bytes. */
const response = Buffer.from('8001000000100000000000040a0b0c0d', 'hex');
const SHORT_MS = 150;

/** A TPM that does with each connection what the test says. */
async function peer(t: TestContext, behave: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    behave(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const address = server.address();
  return `swtpm:host=127.0.0.1,port=${typeof address === 'object' ? String(address?.port) : ''}`;
}

async function exchange(tcti: string, timeoutMs: number): Promise<Buffer> {
  const transport = await openTransport(parseTcti(tcti), timeoutMs);
  try {
    return await transport.send(command);
  } finally {
    await transport.close();
  }
}

describe('a TPM over a socket', () => {
  it('may answer in single bytes', async (t) => {
    const tcti = await peer(t, (socket) => {
      socket.once('data', () => {
        for (const byte of response) socket.write(Buffer.from([byte]));
      });
    });
    assert.deepEqual(await exchange(tcti, 5000), response);
  });

  it('that falls silent after any number of bytes ends in a time-out', async (t) => {
    await Promise.all(
      Array.from({ length: response.length }, async (_, count) => {
        const tcti = await peer(t, (socket) => {
          socket.once('data', () => socket.write(response.subarray(0, count)));
        });
        await assert.rejects(exchange(tcti, SHORT_MS), { code: 'tpm-unavailable.timeout' }, `${count} bytes`);
      }),
    );
  });

  it('that hangs up after any number of bytes ends in a connection error', async (t) => {
    await Promise.all(
      Array.from({ length: response.length }, async (_, count) => {
        const tcti = await peer(t, (socket) => {
          socket.once('data', () => socket.end(response.subarray(0, count)));
        });
        await assert.rejects(
          exchange(tcti, 5000),
          { code: 'tpm-unavailable.connection', effect: 'unknown' },
          `${count} bytes`,
        );
      }),
    );
  });

  it('that floods, or talks another protocol, is cut off at once', async (t) => {
    for (const noise of [
      'HTTP/1.1 400 Bad Request\r\n\r\n',
      Buffer.alloc(1_000_000, 0x80),
      Buffer.concat([response, response]),
      Buffer.from('80017fffffff00000000', 'hex'),
      Buffer.from('80010000000900000000', 'hex'),
    ]) {
      const tcti = await peer(t, (socket) => {
        socket.once('data', () => socket.write(noise));
      });
      await assert.rejects(exchange(tcti, 5000), { code: 'tpm-unavailable.protocol' });
    }
  });

  it('that is a TPM 1.2 is called one', async (t) => {
    const tcti = await peer(t, (socket) => {
      socket.once('data', () => socket.write(Buffer.from('00c40000000a0000001e', 'hex')));
    });
    await assert.rejects(exchange(tcti, 5000), { code: 'tpm-unavailable.not-tpm2' });
  });

  it('that speaks unasked is not believed later', async (t) => {
    let leave: () => void = () => undefined;
    const hasLeft = new Promise<void>((resolve) => (leave = resolve));
    // Who hangs up after it sees the other side hang up too, once that has read everything.
    const tcti = await peer(t, (socket) => socket.on('close', leave).resume().end(response));
    const transport = await openTransport(parseTcti(tcti), 5000);
    await hasLeft;
    await assert.rejects(transport.send(command), { code: 'tpm-unavailable.protocol', effect: 'none' });
    await transport.close();
  });

  it('stays dead after a time-out, as the answer may still come', async (t) => {
    const tcti = await peer(t, () => undefined);
    const transport = await openTransport(parseTcti(tcti), SHORT_MS);
    await assert.rejects(transport.send(command), { code: 'tpm-unavailable.timeout', effect: 'unknown' });
    // What was not sent any more has done nothing, whatever became of the command before.
    await assert.rejects(transport.send(command), { code: 'tpm-unavailable.timeout', effect: 'none' });
    await transport.close();
  });

  it('that is left while it is silent may have done what it was told, and nothing after that', async (t) => {
    const tcti = await peer(t, () => undefined);
    const transport = await openTransport(parseTcti(tcti), 5000);
    const sent = transport.send(command);
    transport.abandon?.(new IotdmError('interrupted.signal', 'interrupted'));
    await assert.rejects(sent, { code: 'interrupted.signal', effect: 'unknown' });
    await assert.rejects(transport.send(command), { code: 'interrupted.signal', effect: 'none' });
    await transport.close();
  });

  it('that is not there is a connection error, over TCP and UNIX sockets', async (t) => {
    const dir = await scratchDirectory(t);
    await assert.rejects(exchange('swtpm:host=127.0.0.1,port=1', 5000), {
      code: 'tpm-unavailable.connection',
    });
    await assert.rejects(exchange(`swtpm:path=${join(dir, 'no.sock')}`, 5000), {
      code: 'tpm-unavailable.connection',
    });
  });

  it('may have an IPv6 address, which is shown in brackets', async (t) => {
    const server = createServer((socket) => {
      socket.on('error', () => undefined).once('data', () => socket.write(response));
    });
    const listening = await new Promise<boolean>((resolve) => {
      server.once('error', () => {
        resolve(false);
      });
      server.listen(0, '::1', () => {
        resolve(true);
      });
    });
    if (!listening) {
      t.skip('this machine has no IPv6');
      return;
    }
    const address = server.address();
    const port = typeof address === 'object' ? Number(address?.port) : 0;
    const transport = await openTransport(parseTcti(`swtpm:host=[::1],port=${port}`), 5000);
    assert.equal(transport.name, `[::1]:${port}`);
    assert.deepEqual(await transport.send(command), response);
    await transport.close();
    await new Promise((resolve) => server.close(resolve));
    for (const kind of ['swtpm', 'mssim']) {
      await assert.rejects(exchange(`${kind}:host=[::1],port=${port}`, 5000), {
        code: 'tpm-unavailable.connection',
        message: `cannot connect to a TPM at [::1]:${port} (ECONNREFUSED)`,
      });
    }
  });

  it('may be a UNIX socket', async (t) => {
    const path = join(await scratchDirectory(t), 'tpm.sock');
    const server = createServer((socket) => {
      socket.once('data', () => socket.write(response));
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    t.after(() => {
      server.close();
    });
    assert.deepEqual(await exchange(`swtpm:path=${path}`, 5000), response);
  });
});

describe("a TPM behind the protocol of Microsoft's simulator", () => {
  const size = Buffer.from('00000010', 'hex');
  const zero = Buffer.alloc(4);
  const framed = Buffer.concat([size, response, zero]);

  /** A simulator that switches on as it should and does with each command what the test says. */
  function simulator(t: TestContext, behave: (socket: Socket) => void): Promise<string> {
    return simulatorPair(t, behave, async (reader, socket) => {
      for (;;) if ((await reader.take(4)).readUInt32BE() !== 20) socket.write(zero);
    });
  }

  async function simulatorPair(
    t: TestContext,
    behave: (socket: Socket) => void,
    platform: Parameters<typeof listenOnPair>[2],
  ): Promise<string> {
    const port = await listenOnPair(
      t,
      async (reader, socket) => {
        await reader.take(9 + command.length);
        behave(socket);
        // Until the other side has had enough.
        await reader.take(1_000_000);
      },
      platform,
    );
    return `mssim:host=127.0.0.1,port=${port}`;
  }

  it('may answer in single bytes', async (t) => {
    const tcti = await simulator(t, (socket) => {
      for (const byte of framed) socket.write(Buffer.from([byte]));
    });
    assert.deepEqual(await exchange(tcti, 5000), response);
  });

  it('that falls silent after any number of bytes ends in a time-out', async (t) => {
    await Promise.all(
      Array.from({ length: framed.length }, async (_, count) => {
        const tcti = await simulator(t, (socket) => socket.write(framed.subarray(0, count)));
        await assert.rejects(exchange(tcti, SHORT_MS), { code: 'tpm-unavailable.timeout' }, `${count} bytes`);
      }),
    );
  });

  it('that hangs up after any number of bytes ends in a connection error', async (t) => {
    await Promise.all(
      Array.from({ length: framed.length }, async (_, count) => {
        const tcti = await simulator(t, (socket) => socket.end(framed.subarray(0, count)));
        await assert.rejects(exchange(tcti, 5000), { code: 'tpm-unavailable.connection' }, `${count} bytes`);
      }),
    );
  });

  it('that floods, or talks another protocol, is cut off at once', async (t) => {
    for (const noise of [
      response,
      'HTTP/1.1 400 Bad Request\r\n\r\n',
      Buffer.alloc(1_000_000, 0x80),
      Buffer.concat([framed, framed]),
      Buffer.concat([size, response, Buffer.from('00000001', 'hex')]),
      Buffer.concat([Buffer.from('00000011', 'hex'), response, Buffer.alloc(5)]),
      Buffer.from('00000010ffff00000010000000000000', 'hex'),
      Buffer.from('00004001', 'hex'),
      Buffer.from('00000009', 'hex'),
    ]) {
      const tcti = await simulator(t, (socket) => socket.write(noise));
      await assert.rejects(exchange(tcti, 5000), { code: 'tpm-unavailable.protocol' });
    }
  });

  it('that is switched off, or a TPM 1.2, is called so', async (t) => {
    const off = await simulator(t, (socket) => socket.write(Buffer.alloc(8)));
    await assert.rejects(exchange(off, 5000), { code: 'tpm-unavailable.not-started' });
    const old = await simulator(t, (socket) =>
      socket.write(Buffer.from('0000000a00c40000000a0000001e00000000', 'hex')),
    );
    await assert.rejects(exchange(old, 5000), { code: 'tpm-unavailable.not-tpm2' });
  });

  it('that does not switch on as it should is not used', async (t) => {
    const refusals: [string, (socket: Socket) => void][] = [
      ['tpm-unavailable.timeout', () => undefined],
      ['tpm-unavailable.timeout', (socket) => socket.write(Buffer.alloc(3))],
      ['tpm-unavailable.connection', (socket) => socket.end(Buffer.alloc(3))],
      ['tpm-unavailable.protocol', (socket) => socket.write(Buffer.from('00000001', 'hex'))],
      ['tpm-unavailable.protocol', (socket) => socket.write(Buffer.alloc(1_000_000))],
    ];
    for (const [code, behave] of refusals) {
      const tcti = await simulatorPair(
        t,
        () => undefined,
        async (reader, socket) => {
          await reader.take(4);
          behave(socket);
          await reader.take(1_000_000);
        },
      );
      await assert.rejects(openTransport(parseTcti(tcti), SHORT_MS), { code });
    }
  });

  it('whose platform port is closed is a connection error that names it', async (t) => {
    const tcti = await peer(t, () => undefined);
    await assert.rejects(openTransport(parseTcti(tcti.replace('swtpm', 'mssim')), 5000), {
      code: 'tpm-unavailable.connection',
      message: /the platform port/,
    });
  });

  it('that is not there is a connection error', async () => {
    await assert.rejects(exchange('mssim:host=127.0.0.1,port=1', 5000), {
      code: 'tpm-unavailable.connection',
    });
  });
});

describe('a TPM behind a command', () => {
  const answer = [...response].map((byte) => `\\${byte.toString(8).padStart(3, '0')}`).join('');

  it('answers through the pipe', async () => {
    assert.deepEqual(
      await exchange(`cmd:head -c 12 >/dev/null; printf '${answer}'; cat >/dev/null`, 5000),
      response,
    );
  });

  it('that fails is reported with its last words', async () => {
    await assert.rejects(exchange('cmd:echo "no route to dut" >&2; exit 7', 5000), {
      code: 'tpm-unavailable.connection',
      message: /ended with status 7: no route to dut$/,
    });
  });

  it('that does not exist is a connection error', async () => {
    await assert.rejects(exchange('cmd:iotdm-no-such-program', 5000), { code: 'tpm-unavailable.connection' });
  });

  it('that never answers ends in a time-out, and does not stay behind', async () => {
    await assert.rejects(exchange('cmd:exec sleep 60', SHORT_MS), { code: 'tpm-unavailable.timeout' });
  });
});

describe('a TPM behind a device node', () => {
  function device(overrides: Partial<DeviceFile>): () => Promise<DeviceFile> {
    return () =>
      Promise.resolve({
        write: (bytes) => Promise.resolve({ bytesWritten: bytes.length }),
        read: (buffer) => {
          response.copy(buffer);
          return Promise.resolve({ bytesRead: response.length, buffer });
        },
        close: () => Promise.resolve(),
        ...overrides,
      });
  }

  async function send(open: () => Promise<DeviceFile>): Promise<Buffer> {
    const transport = await openTransport({ kind: 'device', path: '/dev/tpmrm0' }, SHORT_MS, {
      openDevice: open,
    });
    return transport.send(command);
  }

  it('takes a command in one write and gives its response in one read', async () => {
    assert.deepEqual(await send(device({})), response);
  });

  it('may take its time: nothing, or EAGAIN, means that the response is not there yet', async () => {
    let looks = 0;
    const slow = device({
      read: (buffer) => {
        looks += 1;
        if (looks === 1) return Promise.reject(Object.assign(new Error('EAGAIN'), { code: 'EAGAIN' }));
        if (looks === 2) return Promise.resolve({ bytesRead: 0, buffer });
        response.copy(buffer);
        return Promise.resolve({ bytesRead: response.length, buffer });
      },
    });
    assert.deepEqual(await send(slow), response);
  });

  it('that takes commands and never answers ends in a time-out, and the program with it', async () => {
    const { code, stderr } = await iotdm(['ek', 'read', '--tpm', 'device:/dev/null', '--timeout', '0.3']);
    assert.equal(code, 3, stderr);
    assert.match(stderr, /^iotdm: error: \/dev\/null did not answer within 0\.3 s$/m);
  });

  it('explains why it cannot be opened', async () => {
    const refusals: [string, string][] = [
      ['ENOENT', 'tpm-unavailable.not-found'],
      ['EACCES', 'tpm-unavailable.permission'],
      ['EPERM', 'tpm-unavailable.permission'],
      ['EBUSY', 'tpm-unavailable.busy'],
      ['EIO', 'tpm-unavailable.connection'],
    ];
    for (const [errno, code] of refusals) {
      const open = (): Promise<DeviceFile> =>
        Promise.reject(Object.assign(new Error(errno), { code: errno }));
      await assert.rejects(send(open), { code });
    }
  });

  it('that answers short, fails or hangs ends in an error', async () => {
    const short = device({ read: (buffer) => Promise.resolve({ bytesRead: 3, buffer }) });
    await assert.rejects(send(short), { code: 'tpm-unavailable.protocol', effect: 'unknown' });
    const refusing = (code: string) => () => Promise.reject(Object.assign(new Error(code), { code }));
    const failing = device({ read: refusing('EIO') });
    await assert.rejects(send(failing), { code: 'tpm-unavailable.connection', effect: 'unknown' });
    const hanging = device({ read: () => new Promise(() => undefined) });
    await assert.rejects(send(hanging), { code: 'tpm-unavailable.timeout', effect: 'unknown' });
    const partial = device({ write: () => Promise.resolve({ bytesWritten: 3 }) });
    await assert.rejects(send(partial), { code: 'tpm-unavailable.protocol', effect: 'none' });
    // A driver that has not given out its last response takes no command; one that fails may have begun.
    await assert.rejects(send(device({ write: refusing('EBUSY') })), { effect: 'none' });
    await assert.rejects(send(device({ write: refusing('EIO') })), { effect: 'unknown' });
  });

  it('that is an ordinary file or not there is called so', async (t) => {
    const dir = await scratchDirectory(t);
    await assert.rejects(openTransport(parseTcti(`device:${dir}/none`), SHORT_MS), {
      code: 'tpm-unavailable.not-found',
    });
    await assert.rejects(openTransport(parseTcti(`device:${import.meta.filename}`), SHORT_MS), {
      code: 'tpm-unavailable.not-found',
    });
  });

  it('is looked for at tpmrm0, then at tpm0, and a refusal is not passed over', async () => {
    const tried: string[] = [];
    const absent = (path: string): Promise<DeviceFile> => {
      tried.push(path);
      return Promise.reject(Object.assign(new Error('ENOENT'), { code: 'ENOENT' }));
    };
    await assert.rejects(openTransport(undefined, SHORT_MS, { platform: 'linux', openDevice: absent }), {
      code: 'tpm-unavailable.not-found',
    });
    assert.deepEqual(tried, ['/dev/tpmrm0', '/dev/tpm0']);
    const refused = (): Promise<DeviceFile> =>
      Promise.reject(Object.assign(new Error('EACCES'), { code: 'EACCES' }));
    await assert.rejects(openTransport(undefined, SHORT_MS, { platform: 'linux', openDevice: refused }), {
      code: 'tpm-unavailable.permission',
    });
  });
});
