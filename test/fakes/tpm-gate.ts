/** Stands between iotdm and a software TPM, and lets a test act at each single command. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface TpmGate {
  /** The value for `--tpm`. */
  readonly tcti: string;
  close(): Promise<void>;
}

/**
 * @param tcti of the software TPM
 * @param onCommand is told the number of each command, from 0, and its TPM_CC; the command goes on when it returns
 * `pass`, and never when it returns `drop`
 * @param onResponse is told once the TPM has carried the command out, before its answer goes on
 */
export async function gateTpm(
  tcti: string,
  onCommand: (number: number, code: number) => 'pass' | 'drop' | Promise<'pass' | 'drop'>,
  onResponse: (number: number) => void = () => undefined,
): Promise<TpmGate> {
  const target = Number(/port=(\d+)/.exec(tcti)?.[1]);
  const sockets = new Set<Socket>();
  let number = -1;
  const server = createServer((client) => {
    const chip = connect({ host: '127.0.0.1', port: target });
    let held: Buffer = Buffer.alloc(0);
    let queue = Promise.resolve();
    client.on('data', (bytes: Buffer) => {
      held = Buffer.concat([held, bytes]);
      while (held.length >= 10 && held.length >= held.readUInt32BE(2)) {
        const command = held.subarray(0, held.readUInt32BE(2));
        held = held.subarray(command.length);
        queue = queue.then(async () => {
          number += 1;
          if ((await onCommand(number, command.readUInt32BE(6))) === 'pass') chip.write(command);
        });
      }
    });
    chip.on('data', (bytes: Buffer) => {
      onResponse(number);
      client.write(bytes);
    });
    client.on('close', () => chip.end());
    chip.on('close', () => client.end());
    for (const socket of [client, chip]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => sockets.delete(socket));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    tcti: `swtpm:host=127.0.0.1,port=${(server.address() as AddressInfo).port}`,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
