/** Stands between iotdm and a software TPM and notes, from the bytes on the wire, which commands were sent. */
import { connect, createServer, type Socket } from 'node:net';

export interface TpmTap {
  /** The value for `--tpm`. */
  readonly tcti: string;
  /** TPM_CC of the commands since this was last asked. */
  taken(): number[];
  close(): Promise<void>;
}

/** @param port of the software TPM on loopback */
export async function tapTpm(port: number): Promise<TpmTap> {
  let codes: number[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const chip = connect({ host: '127.0.0.1', port });
    let held: Buffer = Buffer.alloc(0);
    client.on('data', (bytes: Buffer) => {
      held = Buffer.concat([held, bytes]);
      // TPM 2.0 Library, Part 1, section 18.2: tag, size of the whole command, command code.
      while (held.length >= 10 && held.length >= held.readUInt32BE(2)) {
        codes.push(held.readUInt32BE(6));
        held = held.subarray(held.readUInt32BE(2));
      }
    });
    client.pipe(chip).pipe(client);
    for (const socket of [client, chip]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => sockets.delete(socket));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    tcti: `swtpm:host=127.0.0.1,port=${typeof address === 'object' ? String(address?.port) : ''}`,
    taken: () => {
      const taken = codes;
      codes = [];
      return taken;
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
