/**
 * The network side of Microsoft's TPM simulator in front of a TPM that takes raw commands on a TCP port (swtpm): commands
 * on one port, the machine's switches on the next one.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Lifetime } from '../lab/lab.ts';

export interface MssimProxy {
  readonly port: number;
  /** The value for `--tpm` and for `-T` of tpm2-tools. */
  readonly tcti: string;
  /** Numbers that have arrived, in order: `command 8`, `platform 1`. */
  readonly received: string[];
  /** What the proxied TPM was sent. */
  readonly commands: Buffer[];
}

const POWER_ON = 1;
const SEND_COMMAND = 8;
const NV_ON = 11;
const SESSION_END = 20;

export async function mssimProxy(lifetime: Lifetime, rawPort: number): Promise<MssimProxy> {
  const received: string[] = [];
  const commands: Buffer[] = [];
  let isOn = false;
  const platform = async (reader: Reader, socket: Socket): Promise<void> => {
    for (;;) {
      const signal = (await reader.take(4)).readUInt32BE();
      received.push(`platform ${signal}`);
      if (signal === SESSION_END) return;
      if (signal === POWER_ON) isOn = true;
      socket.write(number(signal === POWER_ON || (signal === NV_ON && isOn) ? 0 : 1));
    }
  };
  const command = async (reader: Reader, socket: Socket): Promise<void> => {
    const tpm = connect(rawPort, '127.0.0.1');
    const answers = new Reader(tpm);
    try {
      for (;;) {
        const request = (await reader.take(4)).readUInt32BE();
        received.push(`command ${request}`);
        if (request !== SEND_COMMAND) return;
        await reader.take(1);
        const bytes = await reader.take((await reader.take(4)).readUInt32BE());
        if (!isOn) {
          socket.write(Buffer.concat([number(0), number(0)]));
          continue;
        }
        commands.push(bytes);
        tpm.write(bytes);
        const header = await answers.take(10);
        const rest = await answers.take(header.readUInt32BE(2) - 10);
        socket.write(Buffer.concat([number(header.length + rest.length), header, rest, number(0)]));
      }
    } finally {
      tpm.end();
    }
  };
  const port = await listenOnPair(lifetime, command, platform);
  return { port, tcti: `mssim:host=127.0.0.1,port=${port}`, received, commands };
}

type Serve = (reader: Reader, socket: Socket) => Promise<void>;

/** Two servers on ports that follow each other; a taken neighbour is tried again with another port. */
export async function listenOnPair(lifetime: Lifetime, first: Serve, second: Serve): Promise<number> {
  for (;;) {
    const lower = await listening(first, 0);
    const address = lower.server.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const upper = await listening(second, port + 1).catch(() => undefined);
    lifetime.after(lower.close);
    if (upper === undefined) continue;
    lifetime.after(upper.close);
    return port;
  }
}

async function listening(serve: Serve, port: number): Promise<{ server: Server; close: () => void }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    serve(new Reader(socket), socket).then(
      () => socket.end(),
      () => socket.destroy(),
    );
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return {
    server,
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

/** Takes exact numbers of bytes from a socket; rejects when it ends before. */
export class Reader {
  readonly #pieces: AsyncIterator<Buffer, undefined>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    socket.on('error', () => undefined);
    this.#pieces = (socket as AsyncIterable<Buffer, undefined>)[Symbol.asyncIterator]();
  }

  async take(count: number): Promise<Buffer> {
    while (this.#rest.length < count) {
      const next = await this.#pieces.next();
      if (next.done === true) throw new Error('the connection ended');
      this.#rest = Buffer.concat([this.#rest, next.value]);
    }
    const taken = this.#rest.subarray(0, count);
    this.#rest = this.#rest.subarray(count);
    return taken;
  }
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
