/**
 * A TPM as iotdm uses it: its commands, and its two primary keys, read where they stand and derived where they do not.
 * Reading changes nothing; keeping a derived key is a separate, explicit step.
 */
import { hex32 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import { endorsementKeyProblem } from './endorsement-key.ts';
import {
  Algorithm,
  ekTemplate,
  ObjectAttributes,
  srkTemplate,
  TpmCommands,
  type PublicObject,
} from './tss.ts';

/** Where Limpet, Windows and Azure's SDKs keep them (TCG Registry of Reserved TPM 2.0 Handles). */
export const EK_HANDLE = 0x81010001;
export const SRK_HANDLE = 0x81000001;

export interface PrimaryKey {
  /** Marshalled TPM2B_PUBLIC, its 2-byte size included. */
  readonly publicArea: Buffer;
  readonly name: Buffer;
  /** RSA modulus, big-endian. */
  readonly modulus: Buffer;
  /** Where it stands, or null for one that was derived and flushed. */
  readonly handle: number | null;
}

export class Tpm extends TpmCommands {
  /**
   * The EK at 0x81010001, whatever made it; where nothing stands there, the one that template L-1 derives.
   * One TPM command, or three on an empty handle (four with `persist`).
   * @param options.persist keep a derived EK at 0x81010001
   * @throws IotdmError `tpm.ek-unsuitable` when another kind of key stands there
   */
  async readEndorsementKey({ persist = false } = {}): Promise<PrimaryKey> {
    return this.withEndorsementKey(async (key, loadedHandle) => {
      if (!persist || key.handle !== null) return key;
      await this.persist(loadedHandle, EK_HANDLE);
      return { ...key, handle: EK_HANDLE };
    });
  }

  /**
   * The same key in the TPM, at a handle that is good while `use` runs: where it stands, or derived, and then flushed
   * whatever happens.
   */
  async withEndorsementKey<T>(use: (key: PrimaryKey, handle: number) => Promise<T>): Promise<T> {
    const standing = await this.readPublic(EK_HANDLE);
    if (standing !== undefined) return use(toEndorsementKey(standing, EK_HANDLE), EK_HANDLE);
    return this.withDerivedEndorsementKey(use);
  }

  /** The EK that template L-1 derives, whatever stands at 0x81010001. Two TPM commands. */
  async withDerivedEndorsementKey<T>(use: (key: PrimaryKey, handle: number) => Promise<T>): Promise<T> {
    return this.withPrimary('endorsement', ekTemplate(), async (key) =>
      use(toEndorsementKey(key, null), key.handle),
    );
  }

  /**
   * The SRK at 0x81000001; where nothing stands there, the one that the TCG's template derives.
   * One TPM command, or three on an empty handle (four with `persist`).
   * @throws IotdmError `tpm.parent-unsuitable` when the key there cannot be an RSA storage root key
   */
  async readStorageRootKey({ persist = false } = {}): Promise<PrimaryKey> {
    return this.withStorageRootKey(async (key, loadedHandle) => {
      if (!persist || key.handle !== null) return key;
      await this.persist(loadedHandle, SRK_HANDLE);
      return { ...key, handle: SRK_HANDLE };
    });
  }

  /** The same key in the TPM, at a handle that is good while `use` runs; a derived one is flushed whatever happens. */
  async withStorageRootKey<T>(use: (key: PrimaryKey, handle: number) => Promise<T>): Promise<T> {
    const standing = await this.readPublic(SRK_HANDLE);
    if (standing !== undefined) return use(toStorageRootKey(standing, SRK_HANDLE), SRK_HANDLE);
    return this.withPrimary('owner', srkTemplate(), async (key) =>
      use(toStorageRootKey(key, null), key.handle),
    );
  }

  /** Derives the SRK of the TCG's template and keeps it at 0x81000001, where nothing stands. Three TPM commands. */
  async makeStorageRootKey(): Promise<PrimaryKey> {
    return this.withPrimary('owner', srkTemplate(), async (key) => {
      await this.persist(key.handle, SRK_HANDLE);
      return toStorageRootKey(key, SRK_HANDLE);
    });
  }

  /** Sees to it that a storage root key stands at 0x81000001. One TPM command, or four. */
  async ensureStorageRootKey(): Promise<void> {
    await this.readStorageRootKey({ persist: true });
  }
}

function toEndorsementKey(key: PublicObject, handle: number | null): PrimaryKey {
  const problem = endorsementKeyProblem(key.publicArea);
  if (problem !== undefined || key.rsa === undefined) {
    throw new IotdmError(
      'tpm.ek-unsuitable',
      `the key at ${hex32(EK_HANDLE)} is not an RSA 2048 endorsement key that DPS takes`,
      { details: { handle: hex32(EK_HANDLE), reason: problem ?? 'it is not an RSA key' } },
    );
  }
  return { publicArea: key.publicArea, name: key.name, modulus: key.rsa.modulus, handle };
}

function toStorageRootKey(key: PublicObject, handle: number | null): PrimaryKey {
  const { restricted, decrypt, sign } = ObjectAttributes;
  const isStorageKey = (key.attributes & (restricted | decrypt | sign)) === (restricted | decrypt);
  if (!isStorageKey || key.type !== Algorithm.rsa || key.rsa?.bits !== 2048 || key.rsa.exponent !== 65537) {
    throw new IotdmError(
      'tpm.parent-unsuitable',
      `the key at ${hex32(SRK_HANDLE)} is not an RSA 2048 storage root key`,
      { details: { handle: hex32(SRK_HANDLE) } },
    );
  }
  return { publicArea: key.publicArea, name: key.name, modulus: key.rsa.modulus, handle };
}
