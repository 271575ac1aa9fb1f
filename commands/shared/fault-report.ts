/** Faults of input files as a CSV file, for as many as there are: the terminal shows a hundred. */
import { randomUUID } from 'node:crypto';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { because, IotdmError, systemErrorCode } from '../../src/errors.ts';
import { csvReportLine } from '../../src/records/csv.ts';
import type { RowFault } from '../../src/station/enrollment-input.ts';

const HEADER = csvReportLine(['file', 'line', 'column', 'field', 'registrationId', 'message']);
const BUFFER_CHARACTERS = 64 * 1024;

/** Where a report goes that nobody has named: beside the input, or here for standard input. */
export function defaultFaultReport(input: string | undefined): string {
  return input === undefined || input === '-' ? 'iotdm-faults.csv' : `${input}.faults.csv`;
}

/** Made beside its place with mode 0600, and put there when it is complete. */
export class FaultReport {
  readonly path: string;
  readonly #part: string;
  readonly #keep: number;
  #pending = HEADER;
  #count = 0;
  #file: FileHandle | undefined;

  /** @param keep this many faults in memory before the file is begun */
  constructor(path: string, keep: number) {
    this.path = path;
    this.#part = join(dirname(path), `.${randomUUID()}.part`);
    this.#keep = keep;
  }

  /** @throws IotdmError `usage.output-exists`, `usage.output-unwritable` */
  async add({ file, line, column, field, registrationId, message }: RowFault): Promise<void> {
    const place = [file, String(line), column === null ? '' : String(column)];
    this.#pending += csvReportLine([...place, field ?? '', registrationId ?? '', message]);
    this.#count += 1;
    if (this.#count > this.#keep && this.#pending.length > BUFFER_CHARACTERS) await this.#flush();
  }

  /**
   * Puts the report in its place, where only an earlier report is replaced.
   * @throws IotdmError `usage.output-exists`, `usage.output-unwritable`
   */
  async finish(): Promise<void> {
    await this.#flush();
    await this.#orUnwritable(async () => {
      await this.#file?.sync();
      await this.#file?.close();
      this.#file = undefined;
      await rename(this.#part, this.path);
    });
  }

  /** Leaves nothing behind; a report that is finished stays. */
  async discard(): Promise<void> {
    const file = this.#file;
    if (file === undefined) return;
    this.#file = undefined;
    await file.close();
    await rm(this.#part, { force: true });
  }

  async #flush(): Promise<void> {
    await this.#orUnwritable(async () => {
      if (this.#file === undefined) {
        await this.#refuseForeignFile();
        this.#file = await open(this.#part, 'wx', 0o600);
      }
      await this.#file.write(this.#pending);
      this.#pending = '';
    });
  }

  async #refuseForeignFile(): Promise<void> {
    const earlier = await open(this.path, 'r').catch((error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (earlier === undefined) return;
    const head = Buffer.alloc(HEADER.length);
    const { bytesRead } = await earlier.read(head).finally(() => earlier.close());
    if (head.toString('utf8', 0, bytesRead) === HEADER) return;
    throw new IotdmError('usage.output-exists', `${this.path} exists already, and is no report of faults`, {
      details: because('not-a-report'),
    });
  }

  async #orUnwritable(task: () => Promise<void>): Promise<void> {
    try {
      await task();
    } catch (cause) {
      const code = systemErrorCode(cause);
      if (cause instanceof IotdmError || code === undefined) throw cause;
      throw new IotdmError('usage.output-unwritable', `cannot write ${this.path} (${code})`, { cause });
    }
  }
}
