/** Records of changes under way as files in a state directory: for their owner only, and flushed to disk. */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { makeStateDirectory, removeState, writeState } from '../state-directory.ts';
import { SLOT_COUNT } from './layout.ts';
import { damaged } from './record.ts';
import type { RecoveryStore } from './recovery.ts';

/** A record has less than 3 KB. */
const LIMIT_BYTES = 16384;

const WRITABLE_BY_OTHERS = 0o022;

/** `recovery-SLOT-` and the name of the TPM's storage root key in hex. */
const fileNamePattern = /^recovery-([0-9])-[0-9a-f]+$/;

/** Whether a file of this name is a record. */
export function isRecoveryFile(name: string): boolean {
  return fileNamePattern.test(name);
}

export class RecoveryFiles implements RecoveryStore {
  readonly place: string;

  constructor(dir: string) {
    this.place = dir;
  }

  mayHave(slot: number): boolean {
    try {
      return readdirSync(this.place).some((name) => fileNamePattern.exec(name)?.[1] === String(slot));
    } catch {
      return false;
    }
  }

  read(tpmName: Buffer, slot: number): string | undefined {
    const file = join(this.place, fileName(tpmName, slot));
    let descriptor: number;
    try {
      // A link could lead to a file of somebody else's; Windows has no such flag.
      const noFollow = process.platform === 'win32' ? 0 : constants.O_NOFOLLOW;
      descriptor = openSync(file, constants.O_RDONLY | noFollow);
    } catch (cause) {
      const code = systemErrorCode(cause);
      if (code === 'ENOENT') return undefined;
      if (code === 'ELOOP') throw damaged('it is a link');
      throw new IotdmError('input.unreadable', `${file} cannot be read`, { cause });
    }
    try {
      const { mode, size, uid } = fstatSync(descriptor);
      const isFile = (mode & constants.S_IFMT) === constants.S_IFREG;
      if (!isFile || size > LIMIT_BYTES) throw damaged('it is no file of the size of a record');
      const isOurs = process.getuid === undefined || uid === process.getuid() || uid === 0;
      if (!isOurs || (process.platform !== 'win32' && (mode & WRITABLE_BY_OTHERS) !== 0)) {
        throw damaged('others than you can have written it');
      }
      return readFileSync(descriptor, 'utf8');
    } finally {
      closeSync(descriptor);
    }
  }

  write(tpmName: Buffer, slot: number, text: string): void {
    makeStateDirectory(this.place);
    writeState(this.place, fileName(tpmName, slot), text);
  }

  remove(tpmName: Buffer, slot: number): void {
    removeState(this.place, fileName(tpmName, slot));
  }

  /** Forgets all changes to slots of this TPM. */
  removeAll(tpmName: Buffer): void {
    for (let slot = 0; slot < SLOT_COUNT; slot += 1) {
      if (this.mayHave(slot)) this.remove(tpmName, slot);
    }
  }
}

function fileName(tpmName: Buffer, slot: number): string {
  return `recovery-${slot}-${tpmName.toString('hex')}`;
}
