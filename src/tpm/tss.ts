/**
 * The TPM commands that iotdm uses, as promises over tss.js. The only file that knows tss.js: it marshals and
 * unmarshals, while connecting, retrying, checking and cleaning up are done here, because tss.js prints, retries
 * without pause, loses half of the response code and throws where nobody can catch.
 */
import { createHash, randomBytes } from 'node:crypto';
import type { TPM_CC } from 'tss.js';
import {
  Session,
  NullSymDef,
  TPMA_OBJECT,
  TPM2B_PRIVATE,
  TPM2B_PUBLIC_KEY_RSA,
  TPM_ALG_ID,
  TPM_CAP,
  TPM_HANDLE,
  TPM_RH,
  TPML_ALG_PROPERTY,
  TPML_CCA,
  TPM_SE,
  TPML_HANDLE,
  TPML_TAGGED_TPM_PROPERTY,
  TPMS_ID_OBJECT,
  TPMS_KEYEDHASH_PARMS,
  TPMS_NULL_SIG_SCHEME,
  TPMS_NV_PUBLIC,
  TPMS_RSA_PARMS,
  TPMS_SCHEME_HMAC,
  TPMS_SENSITIVE_CREATE,
  TPMT_PUBLIC,
  TPMT_SYM_DEF_OBJECT,
  TPM2B_DIGEST_KEYEDHASH,
  Tpm,
  type CreatePrimaryResponse,
  type CreateResponse,
  type GetCapabilityResponse,
  type NV_ReadPublicResponse,
  type ReadPublicResponse,
  type SequenceCompleteResponse,
  type StartAuthSessionResponse,
  type TPMA_NV,
  type TPMU_PUBLIC_PARMS,
  type TpmBuffer,
  type TpmError,
} from 'tss.js';
import type { ReqStructure } from 'tss.js/lib/TpmStructure.js';
import type { Credential } from '../credential.ts';
import { IotdmError, mayHaveTakenEffect, withEffect } from '../errors.ts';
import { EK_AUTH_POLICY } from './endorsement-key.ts';
import { isRetryable, responseError, saysAbsent } from './response-code.ts';
import { RESPONSE_HEADER_BYTES, type TpmTransport } from './transport.ts';

/** A command that was sent, for `-vv` and for the manifest. Holds no parameters: they may be secret. */
export interface TpmCommandTrace {
  /** The specification's name, such as `ReadPublic`. */
  readonly command: string;
  readonly responseCode: number;
  readonly elapsedMs: number;
}

/** A key as ReadPublic, CreatePrimary and Load describe it. */
export interface PublicObject {
  /** Marshalled TPM2B_PUBLIC, its 2-byte size included. */
  readonly publicArea: Buffer;
  /** nameAlg and digest of the public area. */
  readonly name: Buffer;
  /** TPM_ALG_ID of the object. */
  readonly type: number;
  readonly nameAlg: number;
  /** TPMA_OBJECT. */
  readonly attributes: number;
  readonly authPolicy: Buffer;
  /** Set for RSA keys. */
  readonly rsa?: { readonly bits: number; readonly exponent: number; readonly modulus: Buffer };
  /** Set for KEYEDHASH objects that sign: the hash of their HMAC scheme. */
  readonly hmacHash?: number;
}

export interface TransientObject extends PublicObject {
  readonly handle: number;
}

/** What TPM2_Create gives: a key that only its parent can load. */
export interface WrappedKey {
  readonly privatePart: Buffer;
  readonly publicPart: Buffer;
}

/** A key as TPM2_Duplicate leaves it: for one storage key, and within that for who has the inner key (Part 1, 23.3). */
export interface DuplicatedKey {
  /** Contents of TPM2B_PUBLIC. */
  readonly publicPart: Buffer;
  /** Contents of TPM2B_PRIVATE. */
  readonly duplicate: Buffer;
  /** Contents of TPM2B_ENCRYPTED_SECRET: the seed of the outer wrapper, encrypted to the storage key. */
  readonly encryptedSeed: Buffer;
  /** Of the inner wrapper: AES in CFB mode, 16 bytes or 32. */
  readonly innerKey: Buffer;
}

export interface NvPublic {
  /** nameAlg and digest of the public area. */
  readonly name: Buffer;
  /** TPMA_NV. */
  readonly attributes: number;
  readonly nameAlg: number;
  /** Bytes. */
  readonly dataSize: number;
}

/** Authorization values of the hierarchies; absent ones are empty. */
export interface HierarchyAuth {
  readonly owner?: Buffer;
  readonly endorsement?: Buffer;
  readonly lockout?: Buffer;
}

export interface TpmOptions {
  readonly auth?: HierarchyAuth;
  readonly onCommand?: (trace: TpmCommandTrace) => void;
  /**
   * Aborted: no new work is begun, what was loaded is still flushed, and a change that has begun is finished. A TPM
   * that stays silent is given up soon after.
   */
  readonly signal?: AbortSignal;
  /** Waits between retries; a test gives one that does not wait. */
  readonly delay?: (milliseconds: number) => Promise<void>;
  /** How long a TPM may take to end the command under way once the signal is aborted; a test does not wait as long. */
  readonly graceMs?: number;
}

/** Lockout is none that keys live in: its authorization ends a lockout and clears the TPM. */
export type Hierarchy = 'owner' | 'endorsement' | 'lockout';

/** The bits of TPMA_OBJECT that make a storage key, or not (Part 2, section 8.3). */
export const ObjectAttributes = { restricted: 1 << 16, decrypt: 1 << 17, sign: 1 << 18 } as const;

/** TPM_ALG_ID, Part 2, section 6.3. */
export const Algorithm = {
  rsa: 0x0001,
  hmac: 0x0005,
  keyedHash: 0x0008,
  aes: 0x0006,
  sha256: 0x000b,
  ecc: 0x0023,
} as const;

/** Waits 20 ms, then twice as long each time: about 10 s in all before a busy TPM is given up. */
const RETRY_FIRST_DELAY_MS = 20;
const RETRY_MAX_DELAY_MS = 1000;
const RETRY_LIMIT = 15;

/** TPM_PT_INPUT_BUFFER: bytes that HMAC and SequenceUpdate take at once. */
const PT_INPUT_BUFFER = 0x010d;

/** TPM_PT_HR_PERSISTENT_AVAIL. */
const PT_PERSISTENT_LEFT = 0x0209;

/** Every TPM 2.0 takes this much; more is asked for only when it is needed. */
const SAFE_INPUT_BYTES = 512;

const SHA256_BYTES = 32;

/** Modulus of RSA 2048. */
const MODULUS_BYTES = 256;

/** More than any list of algorithms or commands has. */
const MAX_LIST = 1024;

/** TPM_CC_FIRST, and TPMA_CC's bit for commands that the specification does not know. */
const FIRST_COMMAND = 0x11f;
const VENDOR_COMMAND = 1 << 29;
/** The least that StartAuthSession takes (Part 1, 19.6.10). */
const NONCE_BYTES = 16;

/** TPM_PT_NV_BUFFER_MAX is at least this on every chip that follows the PC Client profile. */
const SAFE_NV_BYTES = 512;

/** How long a TPM may take to end the command under way once the user wants to leave; a key on a chip takes longer. */
const INTERRUPTION_GRACE_MS = 1500;

/** The commands that leave something loaded until it is flushed: objects, sequences and sessions. */
const loadingCommands: ReadonlySet<string> = new Set([
  'CreatePrimary',
  'HMAC_Start',
  'Load',
  'StartAuthSession',
]);

/** The commands that change what stays in the TPM. */
const changingCommands: ReadonlySet<string> = new Set([
  'Clear',
  'EvictControl',
  'NV_DefineSpace',
  'NV_UndefineSpace',
  'NV_Write',
]);

/** tss.js keeps unmarshalling faults to itself, in a timer callback; this subclass brings them back to the caller. */
class GuardedTpm extends Tpm {
  onFault: (error: unknown) => void = () => undefined;

  constructor(device: TssDevice) {
    // "Simulator" only keeps the constructor from loading a Windows library; its device is replaced at once.
    super(true);
    Object.assign(this, { device });
  }

  protected override dispatchCommand(
    command: TPM_CC,
    request: ReqStructure,
    handler: (response: TpmBuffer) => void,
  ): void {
    super.dispatchCommand(command, request, (response: TpmBuffer | null) => {
      try {
        handler(response as TpmBuffer);
        // Reading past the end gives zeros and no error.
        if (response?.isOk() === false) this.onFault(new RangeError('the response is too short'));
      } catch (error) {
        this.onFault(error);
      }
    });
  }
}

/** The device interface of tss.js (TpmDevice.d.ts). */
interface TssDevice {
  connect(continuation: (error: unknown) => void): void;
  dispatchCommand(command: Buffer, continuation: (error: unknown, response: Buffer | null) => void): void;
  close(): void;
}

export class TpmCommands {
  readonly #transport: TpmTransport;
  readonly #options: TpmOptions;
  readonly #tpm: GuardedTpm;
  readonly #sent: string[] = [];
  #lastCode = 0;
  /** Something in the TPM has been changed: what belongs to that is finished, whoever interrupts it. */
  #changing = false;
  #mayHaveLeftLoaded = false;

  constructor(transport: TpmTransport, options: TpmOptions = {}) {
    this.#transport = transport;
    this.#options = options;
    this.#tpm = new GuardedTpm({
      connect: (continuation) => {
        setImmediate(continuation, null);
      },
      dispatchCommand: (command, continuation) => {
        this.#exchange(command).then(
          (response) => {
            continuation(null, response);
          },
          (error: unknown) => {
            continuation(error, null);
          },
        );
      },
      close: () => undefined,
    });
  }

  /** What to call this TPM in messages. */
  get name(): string {
    return this.#transport.name;
  }

  /** Whether the caller gave a value, other than the empty one, for the authorization of this hierarchy. */
  hasAuth(hierarchy: Hierarchy): boolean {
    return (this.#options.auth?.[hierarchy]?.length ?? 0) > 0;
  }

  /** Names of the commands sent so far, retries not counted. */
  get commandsSent(): readonly string[] {
    return this.#sent;
  }

  /**
   * Whether something that was loaded may still be: nobody knows whether it was, or it could not be flushed. A TPM
   * without a resource manager keeps it until it is restarted.
   */
  get mayHaveLeftLoaded(): boolean {
    return this.#mayHaveLeftLoaded;
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  /** The public part of a key, or undefined where the handle is empty. One command. */
  async readPublic(handle: number): Promise<PublicObject | undefined> {
    return this.#unlessAbsent(() =>
      this.#run<ReadPublicResponse, PublicObject>(
        'ReadPublic',
        (tpm, done) => {
          tpm.ReadPublic(new TPM_HANDLE(handle), done);
        },
        ({ outPublic, name }) => describeObject(outPublic, name),
      ),
    );
  }

  /**
   * Derives a primary key, hands it to `use` and flushes it whatever happens. Two commands, seconds on a real chip.
   */
  async withPrimary<T>(
    hierarchy: Exclude<Hierarchy, 'lockout'>,
    template: TPMT_PUBLIC,
    use: (key: TransientObject) => Promise<T>,
  ): Promise<T> {
    const [handle, response] = await this.#run<CreatePrimaryResponse, [number, CreatePrimaryResponse]>(
      'CreatePrimary',
      (tpm, done) => {
        tpm
          .withSession(this.#password(hierarchy))
          .CreatePrimary(
            hierarchyHandle(hierarchy),
            new TPMS_SENSITIVE_CREATE(),
            template,
            Buffer.alloc(0),
            [],
            done,
          );
      },
      (result) => [result.handle.handle >>> 0, result],
    );
    return this.#flushing(handle, async () => {
      const key = this.#understand('CreatePrimary', response, ({ outPublic, name }) =>
        describeObject(outPublic, name),
      );
      return use({ handle, ...key });
    });
  }

  /**
   * For how many more persistent keys there is room: an estimate, and 1 may stand for "at least one" (Part 2, 6.13);
   * undefined where the TPM does not say. One command.
   */
  async persistentLeft(): Promise<number | undefined> {
    return this.property(PT_PERSISTENT_LEFT);
  }

  /** Moves a transient key to a persistent handle. Needs owner authorization. One command. */
  async persist(transientHandle: number, persistentHandle: number): Promise<void> {
    await this.#evictControl(transientHandle, persistentHandle);
  }

  /** Removes the key at a persistent handle. Needs owner authorization. One command. */
  async removePersistent(persistentHandle: number): Promise<void> {
    await this.#evictControl(persistentHandle, persistentHandle);
  }

  async #evictControl(object: number, persistentHandle: number): Promise<void> {
    await this.#run('EvictControl', (tpm, done) => {
      tpm
        .withSession(this.#password('owner'))
        .EvictControl(
          hierarchyHandle('owner'),
          new TPM_HANDLE(object),
          new TPM_HANDLE(persistentHandle),
          done,
        );
    });
  }

  /**
   * Wraps an HMAC-SHA256 key of the caller's own under a storage key: userWithAuth, noDA, sign, empty authorization.
   * Nothing stays in the TPM. One command.
   */
  async createHmacKey(parentHandle: number, key: Buffer): Promise<WrappedKey> {
    return this.#run<CreateResponse, WrappedKey>(
      'Create',
      (tpm, done) => {
        tpm.Create(
          new TPM_HANDLE(parentHandle),
          new TPMS_SENSITIVE_CREATE(Buffer.alloc(0), key),
          hmacKeyTemplate(),
          Buffer.alloc(0),
          [],
          done,
        );
      },
      ({ outPrivate, outPublic }) => ({ privatePart: outPrivate.buffer, publicPart: outPublic.toBytes() }),
    );
  }

  /**
   * Makes a key that was duplicated for this storage key one of its own children. Nothing stays in the TPM. One command.
   * @throws IotdmError `tpm.refused` where it was duplicated for another storage key, or was changed since
   */
  async importKey(parentHandle: number, key: DuplicatedKey): Promise<WrappedKey> {
    const { publicPart, duplicate, encryptedSeed, innerKey } = key;
    return this.#run<TPM2B_PRIVATE, WrappedKey>(
      'Import',
      (tpm, done) => {
        tpm.Import(
          new TPM_HANDLE(parentHandle),
          innerKey,
          TPMT_PUBLIC.fromBytes(publicPart),
          new TPM2B_PRIVATE(duplicate),
          encryptedSeed,
          new TPMT_SYM_DEF_OBJECT(TPM_ALG_ID.AES, innerKey.length * 8, TPM_ALG_ID.CFB),
          done,
        );
      },
      (outPrivate) => ({ privatePart: outPrivate.buffer, publicPart }),
    );
  }

  /** Loads a wrapped key, hands it to `use` and flushes it whatever happens. Two commands. */
  async withLoaded<T>(
    parentHandle: number,
    key: WrappedKey,
    use: (key: TransientObject) => Promise<T>,
  ): Promise<T> {
    const publicPart = TPMT_PUBLIC.fromBytes(key.publicPart);
    const handle = await this.#run<TPM_HANDLE, number>(
      'Load',
      (tpm, done) => {
        tpm.Load(new TPM_HANDLE(parentHandle), new TPM2B_PRIVATE(key.privatePart), publicPart, done);
      },
      (loaded) => loaded.handle >>> 0,
    );
    return this.#flushing(handle, async () =>
      use({ handle, ...describeObject(publicPart, publicPart.getName()) }),
    );
  }

  /** HMAC-SHA256 of the data by a key in the TPM. One command up to 512 bytes, a sequence above. */
  async hmac(handle: number, data: Buffer): Promise<Buffer> {
    if (data.length > SAFE_INPUT_BYTES) return this.hmacOfStream(handle, [data]);
    return this.#hmacAtOnce(handle, data);
  }

  #hmacAtOnce(handle: number, data: Buffer): Promise<Buffer> {
    return this.#run<Buffer, Buffer>(
      'HMAC',
      (tpm, done) => {
        tpm.HMAC(new TPM_HANDLE(handle), data, TPM_ALG_ID.SHA256, done);
      },
      (result) => checkLength(result, SHA256_BYTES),
    );
  }

  /**
   * HMAC-SHA256 of any amount of data: one command if it fits the TPM's input buffer, else a sequence. The source is at
   * its end, or was told to end, when this returns or throws.
   */
  async hmacOfStream(handle: number, data: AsyncIterable<Buffer> | Iterable<Buffer>): Promise<Buffer> {
    const chunks = rechunk(data, (await this.property(PT_INPUT_BUFFER)) ?? SAFE_INPUT_BYTES);
    try {
      return await this.#hmacOfChunks(handle, chunks);
    } catch (error) {
      // What has failed says more than a file that cannot be closed.
      await chunks.return(undefined).catch(() => undefined);
      throw error;
    }
  }

  async #hmacOfChunks(handle: number, chunks: AsyncGenerator<Buffer, undefined, undefined>): Promise<Buffer> {
    const first = await chunks.next();
    if (first.done === true) return this.#hmacAtOnce(handle, Buffer.alloc(0));
    let next = await chunks.next();
    if (next.done === true) return this.#hmacAtOnce(handle, first.value);

    const sequenceHandle = await this.#run<TPM_HANDLE, number>(
      'HMAC_Start',
      (tpm, done) => {
        tpm.HMAC_Start(new TPM_HANDLE(handle), Buffer.alloc(0), TPM_ALG_ID.SHA256, done);
      },
      (started) => started.handle >>> 0,
    );
    const sequence = new TPM_HANDLE(sequenceHandle);
    const update = async (chunk: Buffer): Promise<void> => {
      await this.#run('SequenceUpdate', (tpm, done) => {
        tpm.SequenceUpdate(sequence, chunk, done);
      });
    };
    try {
      await update(first.value);
      let last = next.value;
      for (;;) {
        next = await chunks.next();
        if (next.done === true) break;
        await update(last);
        last = next.value;
      }
      return await this.#run<SequenceCompleteResponse, Buffer>(
        'SequenceComplete',
        (tpm, done) => {
          tpm.SequenceComplete(sequence, last, new TPM_HANDLE(TPM_RH.NULL), done);
        },
        ({ result }) => checkLength(result, SHA256_BYTES),
      );
    } catch (error) {
      // SequenceComplete frees the sequence only when it succeeds.
      await this.#flushQuietly(sequenceHandle);
      throw error;
    }
  }

  /**
   * Opens a credential with the EK, on condition that the object it was made for is in the same TPM. The EK's policy
   * asks for the authorization of the endorsement hierarchy. Three commands.
   * @param objectHandle the object that the credential names, with empty authorization
   * @returns the secret in the credential
   * @throws IotdmError `tpm.refused` where the credential is not for this EK or not for this object, `input.invalid`
   * where it is cut short
   */
  async activateCredential(objectHandle: number, ekHandle: number, credential: Credential): Promise<Buffer> {
    const idObject = unmarshalIdObject(credential.credentialBlob);
    return this.#withEndorsementPolicy((session) =>
      this.#run<Buffer, Buffer>(
        'ActivateCredential',
        (tpm, done) => {
          tpm
            .withSessions(Session.Pw(Buffer.alloc(0)), session)
            .ActivateCredential(
              new TPM_HANDLE(objectHandle),
              new TPM_HANDLE(ekHandle),
              idObject,
              credential.encryptedSeed,
              done,
            );
        },
        (secret) => Buffer.from(secret),
      ),
    );
  }

  /** A policy session that satisfies PolicySecret(TPM_RH_ENDORSEMENT), good for one command. */
  async #withEndorsementPolicy<T>(use: (session: Session) => Promise<T>): Promise<T> {
    const { handle, nonceTPM } = await this.#run<
      StartAuthSessionResponse,
      { handle: number; nonceTPM: Buffer }
    >(
      'StartAuthSession',
      (tpm, done) => {
        const none = new TPM_HANDLE(TPM_RH.NULL);
        const nonceCaller = randomBytes(NONCE_BYTES);
        const empty = Buffer.alloc(0);
        tpm.StartAuthSession(
          none,
          none,
          nonceCaller,
          empty,
          TPM_SE.POLICY,
          NullSymDef,
          TPM_ALG_ID.SHA256,
          done,
        );
      },
      (started) => ({ handle: started.handle.handle >>> 0, nonceTPM: started.nonceTPM }),
    );
    try {
      await this.#run('PolicySecret', (tpm, done) => {
        const empty = Buffer.alloc(0);
        tpm
          .withSession(this.#password('endorsement'))
          .PolicySecret(
            hierarchyHandle('endorsement'),
            new TPM_HANDLE(handle),
            nonceTPM,
            empty,
            empty,
            0,
            done,
          );
      });
      // Without continueSession the TPM ends the session itself when the command succeeds.
      return await use(new Session(new TPM_HANDLE(handle), nonceTPM, 0, Buffer.alloc(0)));
    } catch (error) {
      await this.#flushQuietly(handle);
      throw error;
    }
  }

  /** Public part of an NV index, or undefined where it is not defined. One command. */
  async nvReadPublic(index: number): Promise<NvPublic | undefined> {
    return this.#unlessAbsent(() =>
      this.#run<NV_ReadPublicResponse, NvPublic>(
        'NV_ReadPublic',
        (tpm, done) => {
          tpm.NV_ReadPublic(new TPM_HANDLE(index), done);
        },
        ({ nvName, nvPublic: { attributes, nameAlg, dataSize } }) => ({
          name: Buffer.from(nvName),
          attributes: attributes >>> 0,
          nameAlg,
          dataSize: dataSize >>> 0,
        }),
      ),
    );
  }

  /**
   * Reads an NV index with its own, empty authorization, or as the owner. One command for each 512 bytes.
   */
  async nvRead(index: number, size: number, as: 'index' | 'owner' = 'index'): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for (let offset = 0; offset < size; offset += SAFE_NV_BYTES) {
      const length = Math.min(SAFE_NV_BYTES, size - offset);
      const piece = await this.#run<Buffer, Buffer>(
        'NV_Read',
        (tpm, done) => {
          if (as === 'owner') tpm.withSession(this.#password('owner'));
          const authorizing = as === 'owner' ? hierarchyHandle('owner') : new TPM_HANDLE(index);
          tpm.NV_Read(authorizing, new TPM_HANDLE(index), length, offset, done);
        },
        (data) => checkLength(data, length),
      );
      pieces.push(piece);
    }
    return Buffer.concat(pieces);
  }

  /** Defines an NV index with empty authorization. Needs owner authorization. One command. */
  async nvDefine(index: number, attributes: TPMA_NV, dataSize: number): Promise<void> {
    await this.#run('NV_DefineSpace', (tpm, done) => {
      tpm
        .withSession(this.#password('owner'))
        .NV_DefineSpace(
          hierarchyHandle('owner'),
          Buffer.alloc(0),
          new TPMS_NV_PUBLIC(new TPM_HANDLE(index), TPM_ALG_ID.SHA256, attributes, Buffer.alloc(0), dataSize),
          done,
        );
    });
  }

  /** Writes an NV index from its beginning with its own, empty authorization. One command for each 512 bytes. */
  async nvWrite(index: number, data: Buffer): Promise<void> {
    for (let offset = 0; offset < data.length; offset += SAFE_NV_BYTES) {
      const piece = data.subarray(offset, offset + SAFE_NV_BYTES);
      await this.#run('NV_Write', (tpm, done) => {
        tpm.NV_Write(new TPM_HANDLE(index), new TPM_HANDLE(index), piece, offset, done);
      });
    }
  }

  /** Removes an NV index. Needs owner authorization. One command. */
  async nvUndefine(index: number): Promise<void> {
    await this.#run('NV_UndefineSpace', (tpm, done) => {
      tpm
        .withSession(this.#password('owner'))
        .NV_UndefineSpace(hierarchyHandle('owner'), new TPM_HANDLE(index), done);
    });
  }

  /** Up to `count` handles in use from `first` on, of the kind that `first` belongs to. One command. */
  async handles(first: number, count: number): Promise<number[]> {
    return this.#capability(TPM_CAP.HANDLES, first, count, (data) => {
      if (!(data instanceof TPML_HANDLE)) throw new TypeError('not a list of handles');
      return data.handle.map(({ handle }) => [handle >>> 0, handle >>> 0] as const);
    }).then((list) => [...list.keys()]);
  }

  /** Up to `count` properties (TPM_PT) from `first` on. One command. */
  async properties(first: number, count: number): Promise<Map<number, number>> {
    return this.#capability(TPM_CAP.TPM_PROPERTIES, first, count, (data) => {
      if (!(data instanceof TPML_TAGGED_TPM_PROPERTY)) throw new TypeError('not a list of properties');
      return data.tpmProperty.map(({ property, value }) => [property >>> 0, value >>> 0] as const);
    });
  }

  async property(id: number): Promise<number | undefined> {
    return (await this.properties(id, 1)).get(id);
  }

  /** All algorithms of the TPM (TPM_ALG_ID). One command. */
  async algorithms(): Promise<Set<number>> {
    const list = await this.#capability(TPM_CAP.ALGS, 0, MAX_LIST, (data) => {
      if (!(data instanceof TPML_ALG_PROPERTY)) throw new TypeError('not a list of algorithms');
      return data.algProperties.map(({ alg, algProperties }) => [alg as number, algProperties] as const);
    });
    return new Set(list.keys());
  }

  /** The codes (TPM_CC) of all commands that the TPM implements. One command. */
  async commandCodes(): Promise<Set<number>> {
    const list = await this.#capability(TPM_CAP.COMMANDS, FIRST_COMMAND, MAX_LIST, (data) => {
      if (!(data instanceof TPML_CCA)) throw new TypeError('not a list of commands');
      // TPMA_CC, Part 2, 8.9: the code is in the low half, bit 29 marks a vendor's command.
      return data.commandAttributes
        .filter((attributes) => (attributes & VENDOR_COMMAND) === 0)
        .map((attributes) => [attributes & 0xffff, attributes] as const);
    });
    return new Set(list.keys());
  }

  /**
   * Whether the TPM can have keys of this kind: `storage` is RSA 2048 with AES-128-CFB, as the EK and the SRK are;
   * `hmac` is HMAC-SHA256, as the keys of slots are. One command, which makes nothing.
   */
  async supports(kind: keyof typeof keyParameters): Promise<boolean> {
    try {
      await this.#run('TestParms', (tpm, done) => {
        tpm.TestParms(keyParameters[kind](), done);
      });
      return true;
    } catch (error) {
      if (error instanceof IotdmError && error.code === 'tpm.refused') return false;
      throw error;
    }
  }

  /**
   * TPM2_Clear (Part 3, 24.6): what the owner and the endorsement hierarchy hold is gone, and their authorization
   * values with it. One command.
   * @param options.authSet whether the TPM has a lockout authorization value; without one, none is sent, because one
   * wrong value shuts this hierarchy for TPM_PT_LOCKOUT_RECOVERY seconds, which may be a day
   */
  async clear({ authSet }: { readonly authSet: boolean }): Promise<void> {
    await this.#run('Clear', (tpm, done) => {
      tpm
        .withSession(authSet ? this.#password('lockout') : Session.Pw(Buffer.alloc(0)))
        .Clear(hierarchyHandle('lockout'), done);
    });
  }

  /** Asks again where the TPM says that there is more: some give only a few at once. */
  async #capability<V>(
    capability: TPM_CAP,
    first: number,
    count: number,
    read: (data: unknown) => (readonly [number, V])[],
  ): Promise<Map<number, V>> {
    const found = new Map<number, V>();
    for (let from = first; ;) {
      const { items, more } = await this.#run<
        GetCapabilityResponse,
        { items: (readonly [number, V])[]; more: boolean }
      >(
        'GetCapability',
        (tpm, done) => {
          tpm.GetCapability(capability, from, count - found.size, done);
        },
        ({ moreData, capabilityData }) => {
          if (moreData !== 0 && moreData !== 1) throw new RangeError('neither yes nor no');
          return { items: read(capabilityData), more: moreData === 1 };
        },
      );
      for (const [id, value] of items) found.set(id, value);
      const last = items.at(-1)?.[0];
      if (!more || last === undefined || found.size >= count) return found;
      if (last < from) throw malformed(this.name, 'GetCapability');
      from = last + 1;
    }
  }

  /** The user wants to leave, and nothing has been begun that must be finished. */
  #isToStop(): boolean {
    return this.#options.signal?.aborted === true && !this.#changing;
  }

  #password(hierarchy: Hierarchy): Session {
    return Session.Pw(this.#options.auth?.[hierarchy] ?? Buffer.alloc(0));
  }

  async #flushing<T>(handle: number, use: () => Promise<T>): Promise<T> {
    let result: T;
    try {
      result = await use();
    } catch (error) {
      await this.#flushQuietly(handle);
      throw error;
    }
    await this.#flush(handle);
    return result;
  }

  /** Removes a transient object. One command. */
  async flushTransient(handle: number): Promise<void> {
    await this.#flush(handle);
  }

  async #flush(handle: number): Promise<void> {
    try {
      await this.#run(
        'FlushContext',
        (tpm, done) => {
          tpm.FlushContext(new TPM_HANDLE(handle), done);
        },
        undefined,
        { evenWhenAborted: true },
      );
    } catch (error) {
      const isGone = error instanceof IotdmError && error.code === 'tpm.key-missing';
      if (!isGone) this.#mayHaveLeftLoaded = true;
      throw error;
    }
  }

  /** Cleans up after a failure: the failure that is already on its way says more than a second one. */
  async #flushQuietly(handle: number): Promise<void> {
    await this.#flush(handle).catch(() => undefined);
  }

  async #unlessAbsent<T>(read: () => Promise<T>): Promise<T | undefined> {
    try {
      return await read();
    } catch (error) {
      if (error instanceof IotdmError && error.code === 'tpm.key-missing' && saysAbsent(this.#lastCode)) {
        return undefined;
      }
      throw error;
    }
  }

  /**
   * Runs one tss.js command, turns its callback into a promise, and reads its result with `read`: where tss.js left
   * out what the TPM did not send, `read` trips, and that too is a malformed response.
   */
  async #run<T, R = void>(
    command: string,
    start: (tpm: Tpm, done: (error: TpmError | null, result?: T) => void) => void,
    read?: (result: T) => R,
    { evenWhenAborted = false } = {},
  ): Promise<R> {
    if (this.#isToStop() && !evenWhenAborted) {
      throw new IotdmError('interrupted.signal', 'interrupted', { effect: 'none' });
    }
    this.#changing ||= changingCommands.has(command);
    this.#sent.push(command);
    this.#lastCode = 0;
    try {
      return this.#understand(command, await this.#dispatch(command, start), read);
    } catch (error) {
      if (loadingCommands.has(command) && mayHaveTakenEffect(error)) this.#mayHaveLeftLoaded = true;
      throw error;
    }
  }

  #dispatch<T>(
    command: string,
    start: (tpm: Tpm, done: (error: TpmError | null, result?: T) => void) => void,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#tpm.onFault = () => {
        // tss.js also trips over response codes that are no TPM's, such as those of Windows and of the kernel.
        reject(this.#lastCode === 0 ? malformed(this.name, command) : responseError(command, this.#lastCode));
      };
      start(this.#tpm, (error, answer) => {
        if (this.#lastCode !== 0) reject(responseError(command, this.#lastCode));
        else if (error instanceof IotdmError) reject(error);
        else if (error !== null) reject(malformed(this.name, command));
        else resolve(answer as T);
      });
    });
  }

  /** What a command that was carried out has answered. */
  #understand<T, R>(command: string, result: T, read?: (result: T) => R): R {
    try {
      return read?.(result) as R;
    } catch (fault) {
      throw fault instanceof IotdmError ? withEffect(fault, 'unknown') : malformed(this.name, command);
    }
  }

  async #sendUnlessAbandoned(command: Buffer): Promise<Buffer> {
    const { signal, graceMs = INTERRUPTION_GRACE_MS } = this.#options;
    let timer: NodeJS.Timeout | undefined;
    const give = (): void => {
      timer = setTimeout(() => {
        const error = new IotdmError('interrupted.signal', `interrupted while ${this.name} did not answer`);
        this.#transport.abandon?.(error);
      }, graceMs);
    };
    if (signal?.aborted === true) give();
    else signal?.addEventListener('abort', give);
    try {
      return await this.#transport.send(command);
    } finally {
      signal?.removeEventListener('abort', give);
      clearTimeout(timer);
    }
  }

  /** Sends the bytes, again and again while the TPM asks for that, and notes the response code as it came. */
  async #exchange(command: Buffer): Promise<Buffer> {
    const delay = this.#options.delay ?? sleep;
    for (let attempt = 0; ; attempt += 1) {
      const started = performance.now();
      const response = await this.#sendUnlessAbandoned(command);
      const responseCode = response.readUInt32BE(6);
      this.#options.onCommand?.({
        command: this.#sent.at(-1) ?? 'unknown',
        responseCode,
        elapsedMs: performance.now() - started,
      });
      if (isRetryable(responseCode) && attempt < RETRY_LIMIT && !this.#isToStop()) {
        await delay(Math.min(RETRY_FIRST_DELAY_MS * 2 ** attempt, RETRY_MAX_DELAY_MS));
        continue;
      }
      this.#lastCode = responseCode;
      // tss.js would begin anew with RETRY, for ever; it never gets to see that the patience here is at its end.
      if (isRetryable(responseCode)) throw responseError(this.#sent.at(-1) ?? 'the command', responseCode);
      if (responseCode !== 0 && response.length !== RESPONSE_HEADER_BYTES)
        throw malformed(this.name, 'the command');
      return response;
    }
  }
}

/**
 * TPM 2.0's RSA 2048 endorsement key, template L-1 of the TCG EK Credential Profile: `unique` is 256 zero bytes. With
 * another `unique` the same chip gives another key, which no manufacturer's certificate knows.
 */
export function ekTemplate(): TPMT_PUBLIC {
  return endorsementTemplate(Buffer.alloc(MODULUS_BYTES));
}

/** The same with an empty `unique`: what Azure's C and Node SDKs give to a chip that has no EK at its handle. */
export function sdkEkTemplate(): TPMT_PUBLIC {
  return endorsementTemplate(Buffer.alloc(0));
}

function endorsementTemplate(unique: Buffer): TPMT_PUBLIC {
  return storageTemplate(
    TPMA_OBJECT.fixedTPM |
      TPMA_OBJECT.fixedParent |
      TPMA_OBJECT.sensitiveDataOrigin |
      TPMA_OBJECT.adminWithPolicy |
      TPMA_OBJECT.restricted |
      TPMA_OBJECT.decrypt,
    EK_AUTH_POLICY,
    unique,
  );
}

/** The storage root key: the EK template with authorization by value (TCG TPM v2.0 Provisioning Guidance, 7.5.1). */
export function srkTemplate(): TPMT_PUBLIC {
  return storageTemplate(
    TPMA_OBJECT.fixedTPM |
      TPMA_OBJECT.fixedParent |
      TPMA_OBJECT.sensitiveDataOrigin |
      TPMA_OBJECT.userWithAuth |
      TPMA_OBJECT.noDA |
      TPMA_OBJECT.restricted |
      TPMA_OBJECT.decrypt,
    Buffer.alloc(0),
    Buffer.alloc(MODULUS_BYTES),
  );
}

/** TPM2B_PUBLIC of an SRK up to its modulus, which follows and is 256 bytes long. */
export function srkPublicPrefix(): Buffer {
  const area = srkTemplate().asTpm2B();
  return area.subarray(0, area.length - MODULUS_BYTES);
}

function storageTemplate(attributes: TPMA_OBJECT, authPolicy: Buffer, unique: Buffer): TPMT_PUBLIC {
  return new TPMT_PUBLIC(
    TPM_ALG_ID.SHA256,
    attributes,
    authPolicy,
    storageParameters(),
    new TPM2B_PUBLIC_KEY_RSA(unique),
  );
}

function storageParameters(): TPMS_RSA_PARMS {
  return new TPMS_RSA_PARMS(
    new TPMT_SYM_DEF_OBJECT(TPM_ALG_ID.AES, 128, TPM_ALG_ID.CFB),
    new TPMS_NULL_SIG_SCHEME(),
    2048,
    0,
  );
}

function hmacParameters(): TPMS_KEYEDHASH_PARMS {
  return new TPMS_KEYEDHASH_PARMS(new TPMS_SCHEME_HMAC(TPM_ALG_ID.SHA256));
}

const keyParameters = {
  storage: storageParameters,
  hmac: hmacParameters,
} satisfies Readonly<Record<string, () => TPMU_PUBLIC_PARMS>>;

function hmacKeyTemplate(): TPMT_PUBLIC {
  return new TPMT_PUBLIC(
    TPM_ALG_ID.SHA256,
    TPMA_OBJECT.userWithAuth | TPMA_OBJECT.noDA | TPMA_OBJECT.sign,
    Buffer.alloc(0),
    hmacParameters(),
    new TPM2B_DIGEST_KEYEDHASH(Buffer.alloc(0)),
  );
}

function describeObject(area: TPMT_PUBLIC, name: Buffer): PublicObject {
  const publicArea = area.asTpm2B();
  const digest = createHash('sha256').update(publicArea.subarray(2)).digest();
  // The name proves that what was unmarshalled and marshalled again is what the TPM holds, bit for bit.
  if (
    area.nameAlg === TPM_ALG_ID.SHA256 &&
    !name.equals(Buffer.concat([Buffer.from('000b', 'hex'), digest]))
  ) {
    throw new IotdmError('tpm-unavailable.protocol', 'the TPM names a key that is not the one it describes');
  }
  return {
    publicArea,
    name,
    type: area.type,
    nameAlg: area.nameAlg,
    attributes: area.objectAttributes >>> 0,
    authPolicy: area.authPolicy,
    ...rsaPart(area),
    ...hmacPart(area),
  };
}

function rsaPart(area: TPMT_PUBLIC): Pick<PublicObject, 'rsa'> {
  const { parameters, unique } = area;
  if (!(parameters instanceof TPMS_RSA_PARMS) || !(unique instanceof TPM2B_PUBLIC_KEY_RSA)) return {};
  // Part 2, 12.2.3.5: an exponent of zero stands for the default, 2^16 + 1.
  const exponent = parameters.exponent === 0 ? 65537 : parameters.exponent;
  return { rsa: { bits: parameters.keyBits, exponent, modulus: unique.buffer } };
}

function hmacPart(area: TPMT_PUBLIC): Pick<PublicObject, 'hmacHash'> {
  const { parameters } = area;
  if (!(parameters instanceof TPMS_KEYEDHASH_PARMS) || !(parameters.scheme instanceof TPMS_SCHEME_HMAC))
    return {};
  return { hmacHash: parameters.scheme.hashAlg };
}

const hierarchyHandles: Readonly<Record<Hierarchy, TPM_RH>> = {
  owner: TPM_RH.OWNER,
  endorsement: TPM_RH.ENDORSEMENT,
  lockout: TPM_RH.LOCKOUT,
};

function hierarchyHandle(hierarchy: Hierarchy): TPM_HANDLE {
  return new TPM_HANDLE(hierarchyHandles[hierarchy]);
}

/** TPMS_ID_OBJECT (Part 2, 12.4.2): all after the HMAC is encrypted, the size of the secret included. */
function unmarshalIdObject(blob: Buffer): TPMS_ID_OBJECT {
  const start = 2 + (blob.length < 2 ? 0 : blob.readUInt16BE(0));
  if (blob.length <= start) throw new IotdmError('input.invalid', 'the credential is cut short');
  return new TPMS_ID_OBJECT(blob.subarray(2, start), blob.subarray(start));
}

function checkLength(data: Buffer, length: number): Buffer {
  if (data.length !== length) throw new TypeError(`expected ${length} bytes`);
  return data;
}

function malformed(name: string, command: string): IotdmError {
  return new IotdmError('tpm-unavailable.protocol', `${name} answered ${command} with a malformed response`, {
    effect: 'unknown',
  });
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** The same bytes in pieces of exactly `size`, but for the last; no pieces for no bytes. */
async function* rechunk(
  data: AsyncIterable<Buffer> | Iterable<Buffer>,
  size: number,
): AsyncGenerator<Buffer, undefined, undefined> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const piece of data) {
    rest = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    while (rest.length >= size) {
      yield rest.subarray(0, size);
      rest = rest.subarray(size);
    }
  }
  if (rest.length > 0) yield rest;
  return undefined;
}
