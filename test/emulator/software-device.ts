/** A device whose TPM is in software, and which registers as the protocol says: quick, and able to cheat. */

import { createHmac, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { nameOf } from '../../src/duplication.ts';
import { EK_PUBLIC_PREFIX } from '../../src/tpm/endorsement-key.ts';
import { openCredential, openDuplicate, structures } from '../fakes/chip-in-software.ts';
import type { EmulatorInfo } from '../../src/emulator/emulator.ts';
import type { Answer, CallOptions, Caller } from './rig.ts';

/** A rig, or a caller of an emulator elsewhere. */
export type Service = Caller & { readonly emulator: { readonly info: EmulatorInfo } };

/** TPMT_PUBLIC of the TCG's storage root key, up to its modulus: no policy, noDA and userWithAuth. */
const srkPrefix = Buffer.from('0001000b00030472000000060080004300100800000000000100', 'hex');

function rsa(): { privateKey: KeyObject; modulus: Buffer } {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { privateKey, modulus: Buffer.from(publicKey.export({ format: 'jwk' }).n ?? '', 'base64url') };
}

function sized(bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]);
}

export interface SoftwareChip {
  /** TPM2B_PUBLIC, base64. */
  readonly endorsementKey: string;
  readonly storageRootKey: string;
  readonly storageRootKeyName: Buffer;
  readonly privateEndorsementKey: KeyObject;
  readonly privateStorageRootKey: KeyObject;
}

export function softwareChip(): SoftwareChip {
  const [ek, srk] = [rsa(), rsa()];
  const srkPublic = Buffer.concat([srkPrefix, srk.modulus]);
  return {
    endorsementKey: Buffer.concat([EK_PUBLIC_PREFIX, ek.modulus]).toString('base64'),
    storageRootKey: sized(srkPublic).toString('base64'),
    storageRootKeyName: nameOf(srkPublic),
    privateEndorsementKey: ek.privateKey,
    privateStorageRootKey: srk.privateKey,
  };
}

/** The HMAC key in a blob, or undefined when the chip would refuse it. */
export function unwrapKey(chip: SoftwareChip, blob: string): Buffer | undefined {
  const [credential, seed, duplicate, duplicateSeed, publicArea] = structures(Buffer.from(blob, 'base64'));
  if (!credential || !seed || !duplicate || !duplicateSeed || !publicArea) return undefined;
  const innerKey = openCredential(chip.privateEndorsementKey, chip.storageRootKeyName, credential, seed);
  if (innerKey === undefined) return undefined;
  return openDuplicate(chip.privateStorageRootKey, innerKey, publicArea, duplicate, duplicateSeed)?.key;
}

/** @param se Unix seconds; an hour from now when absent */
export function token(resource: string, key: Buffer, more = '', se?: number): string {
  const expiry = se ?? Math.ceil(Date.now() / 1000) + 3600;
  const signature = createHmac('sha256', key).update(`${resource}\n${expiry}`).digest('base64');
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}${more}`;
}

export interface Registered {
  readonly operationId: string;
  readonly authorization: string;
  readonly state: RegistrationState;
  readonly key: Buffer;
}

export interface RegistrationState {
  readonly registrationId: string;
  readonly assignedHub: string;
  readonly deviceId: string;
  readonly status: string;
  readonly substatus: string;
  readonly etag: string;
  readonly payload?: unknown;
  readonly tpm?: { readonly authenticationKey: string };
  readonly createdDateTimeUtc: string;
  readonly lastUpdatedDateTimeUtc: string;
}

/** What the device API answers; a test looks at the members that its answer should have. */
export interface DeviceAnswer {
  readonly authenticationKey: string;
  readonly keyName: string;
  readonly operationId: string;
  readonly status: string;
  readonly registrationState: RegistrationState;
}

export function deviceAnswer(answer: Answer): DeviceAnswer {
  return answer.json as unknown as DeviceAnswer;
}

export class SoftwareDevice {
  readonly chip: SoftwareChip;
  readonly id: string;
  readonly #rig: Service;

  constructor(rig: Service, id: string, chip = softwareChip()) {
    this.#rig = rig;
    this.id = id;
    this.chip = chip;
  }

  async enroll(more: Readonly<Record<string, unknown>> = {}): Promise<void> {
    const tpm = { endorsementKey: this.chip.endorsementKey };
    const body = { registrationId: this.id, attestation: { type: 'tpm', tpm }, ...more };
    const answer = await this.#rig.call('PUT', `/enrollments/${this.id}`, {
      body,
      headers: { 'if-match': '*' },
    });
    if (answer.status !== 200) throw new Error(answer.text);
  }

  get path(): string {
    return `/${this.#rig.emulator.info.idScope}/registrations/${this.id}`;
  }

  get body(): Readonly<Record<string, unknown>> {
    const { endorsementKey, storageRootKey } = this.chip;
    return { registrationId: this.id, tpm: { endorsementKey, storageRootKey } };
  }

  call(method: string, path: string, options: CallOptions = {}): Promise<Answer> {
    const { deviceHost } = this.#rig.emulator.info;
    return this.#rig.callAt(deviceHost, method, path, { query: 'api-version=2019-03-31', ...options });
  }

  put(options: CallOptions = {}): Promise<Answer> {
    return this.call('PUT', `${this.path}/register`, { body: this.body, ...options });
  }

  poll(operationId: string, authorization: string): Promise<Answer> {
    return this.call('GET', `${this.path}/operations/${operationId}`, { authorization });
  }

  /** The session key of a new challenge. */
  async challenged(): Promise<Buffer> {
    const answer = await this.put();
    const key = unwrapKey(this.chip, deviceAnswer(answer).authenticationKey);
    if (answer.status !== 401 || key === undefined) throw new Error(answer.text);
    return key;
  }

  tokenFor(key: Buffer, se?: number): string {
    return token(encodeURIComponent(this.path.slice(1)), key, '&skn=registration', se);
  }

  /** All of it; throws when it does not end in an assignment. */
  async register(body: Readonly<Record<string, unknown>> = {}): Promise<Registered> {
    const authorization = this.tokenFor(await this.challenged());
    const accepted = await this.put({ authorization, body: { ...this.body, ...body } });
    if (accepted.status !== 202) throw new Error(accepted.text);
    const { operationId } = deviceAnswer(accepted);
    const answer = await this.poll(operationId, authorization);
    const state = deviceAnswer(answer).registrationState;
    const key = unwrapKey(this.chip, state.tpm?.authenticationKey ?? '');
    if (answer.status !== 200 || key === undefined) throw new Error(answer.text);
    return { operationId, authorization, state, key };
  }
}
