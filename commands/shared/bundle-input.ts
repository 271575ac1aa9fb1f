/** Bundles among the files that a command reads, checked before anything in them is looked at. */
import type { KeyObject } from 'node:crypto';
import { IotdmError } from '../../src/errors.ts';
import { isBundle, openBundle } from '../../src/station/bundle.ts';
import type { InputSource } from '../../src/station/enrollment-input.ts';
import { readStationKey } from '../../src/station/station-key.ts';
import type { Context } from './context.ts';

const KEY_LIMIT_BYTES = 65536;

export class BundleOpener {
  readonly #context: Context;
  readonly #keyFile: string | undefined;
  #key: KeyObject | undefined;

  /** @param keyFile of the station that must have signed */
  constructor(context: Context, keyFile: string | undefined) {
    this.#context = context;
    this.#keyFile = keyFile;
  }

  /**
   * The files of enrollments of a bundle, or undefined for what is none.
   * @throws IotdmError `verify.signature`, also for what is no bundle where a signature is asked for; `verify.bundle`
   */
  async open(path: string): Promise<readonly InputSource[] | undefined> {
    const key = await this.#readKey();
    if (path === '-' || !(await isBundle(path))) {
      if (key === undefined) return undefined;
      const name = path === '-' ? 'standard input' : path;
      throw new IotdmError('verify.signature', `${name} is no bundle, and cannot be signed`);
    }
    const { list, isSigned, verifiedBy, sources } = await openBundle(path, key);
    const { console } = this.#context;
    if (verifiedBy !== null) console.note(`${path} is as the station ${verifiedBy} has signed it`);
    else if (isSigned)
      console.warn(`the signature of ${path} was not checked, only its checksums: pass --verify-key FILE`);
    else console.warn(`${path} is not signed: only its checksums were checked`);
    const from = list.sources.map(({ name }) => name).join(', ');
    console.detail(`${path} was made at ${list.createdAt} by ${list.tool} from ${from}`);
    return sources;
  }

  async #readKey(): Promise<KeyObject | undefined> {
    if (this.#keyFile === undefined) return undefined;
    this.#key ??= readStationKey(
      await this.#context.readInput(this.#keyFile, 'the key to check signatures with', KEY_LIMIT_BYTES),
    );
    return this.#key;
  }
}
