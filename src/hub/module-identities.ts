/**
 * Identities of modules, which a device reads and creates for itself at its IoT Hub.
 *
 * Source: IoT Hub REST API, "Modules - Get Identity" and "Modules - Create Or Update Identity", api-version 2021-04-12.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { decodeBase64 } from '../encoding.ts';
import { because, IotdmError } from '../errors.ts';
import { Secret } from '../secret.ts';
import {
  pageInPlace,
  refusal,
  send,
  unexpected,
  type HubAnswer,
  type HubOptions,
  type HubRequest,
} from './hub-request.ts';

export interface ModuleIdentity {
  /** Of the module, decoded: 16 to 64 bytes. The caller wipes it. */
  readonly key: Secret;
  /** The hub did not have the module before. */
  readonly created: boolean;
}

export interface ModuleIdentityOptions extends HubOptions {
  /** Replaces the wait between attempts, in tests. */
  readonly delay?: (ms: number) => Promise<unknown>;
}

const ATTEMPTS = 4;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;

const KEY_MIN_BYTES = 16;
const KEY_MAX_BYTES = 64;

/**
 * Reads the identity of a module, or creates it where the hub has none.
 * @param token shared access signature of the device
 * @throws IotdmError `auth.*`, `service.*`, `network.*`, `interrupted.signal`; none carries anything of the identity
 */
export async function readOrCreateModule(
  options: ModuleIdentityOptions,
  deviceId: string,
  moduleId: string,
  token: string,
): Promise<ModuleIdentity> {
  const resource = `/devices/${encodeURIComponent(deviceId)}/modules/${encodeURIComponent(moduleId)}`;
  const read: HubRequest = { method: 'GET', resource, token };
  const found = await ask(options, read);
  if (found.status === 200) return { key: keyOf(options, found, deviceId, moduleId), created: false };
  if (found.status !== 404) throw refusal(options, found);
  const json = { deviceId, moduleId, authentication: { type: 'sas' } };
  const made = await ask(options, { method: 'PUT', resource, token, json });
  // Somebody else made it meanwhile, or this very request did, whose first answer was lost.
  const answer = made.status === 409 ? await ask(options, read) : made;
  if (answer.status !== 200 && answer.status !== 201) throw refusal(options, answer);
  return { key: keyOf(options, answer, deviceId, moduleId), created: made.status !== 409 };
}

/** One request, repeated while the hub is busy or the connection is cut: all of them may be. */
async function ask(options: ModuleIdentityOptions, request: HubRequest): Promise<HubAnswer> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const answer = await send(options, request);
      if (answer.status !== 429 && answer.status < 500) {
        const page = pageInPlace(options, answer);
        if (page !== undefined) throw page;
        return answer;
      }
      if (attempt >= ATTEMPTS) throw refusal(options, answer);
      await pause(options, waitMs(attempt, answer.headers['retry-after']));
    } catch (error) {
      const isCut =
        error instanceof IotdmError &&
        error.code === 'network.unavailable' &&
        error.details?.['status'] === undefined;
      if (!isCut || attempt >= ATTEMPTS) throw error;
      await pause(options, waitMs(attempt, undefined));
    }
  }
}

async function pause({ delay, signal }: ModuleIdentityOptions, ms: number): Promise<void> {
  try {
    await (delay ?? ((time) => wait(time, undefined, signal === undefined ? {} : { signal })))(ms);
  } catch (cause) {
    throw new IotdmError('interrupted.signal', 'interrupted', { cause });
  }
}

function waitMs(attempt: number, retryAfter: string | undefined): number {
  const asked = /^0*[1-9][0-9]{0,4}$/.test(retryAfter ?? '') ? Number(retryAfter) * 1000 : undefined;
  return Math.min(asked ?? FIRST_WAIT_MS * 2 ** (attempt - 1), LONGEST_WAIT_MS);
}

/** The primary key in an answer, which is not trusted. */
function keyOf(options: HubOptions, { body }: HubAnswer, deviceId: string, moduleId: string): Secret {
  const identity = object(parse(body));
  if (identity?.['deviceId'] !== deviceId || identity['moduleId'] !== moduleId) {
    throw unexpected(options, 'it is not the module that was asked for');
  }
  const authentication = object(identity['authentication']);
  const type = authentication?.['type'] ?? 'sas';
  if (type !== 'sas') {
    throw new IotdmError('service.invalid', `module ${moduleId} has no symmetric key at the hub`, {
      details: because('no-symmetric-key', { service: 'hub', moduleId }),
    });
  }
  const text = object(authentication?.['symmetricKey'])?.['primaryKey'];
  const key = typeof text === 'string' ? decodeBase64(text) : undefined;
  if (key === undefined || key.length < KEY_MIN_BYTES || key.length > KEY_MAX_BYTES) {
    throw unexpected(options, 'it holds no key of 16 to 64 bytes');
  }
  return Secret.fromBytes(key);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function object(value: unknown): Readonly<Record<string, unknown>> | undefined {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? (value as Readonly<Record<string, unknown>>) : undefined;
}
