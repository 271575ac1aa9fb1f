/** The connection string of a provisioning service's shared access policy, as the Azure portal hands it out. */
import {
  connectionStringProblem,
  meantField,
  plainConnectionString,
  plainKey,
  plainValue,
} from '../connection-string.ts';
import { decodeBase64 } from '../encoding.ts';
import { IotdmError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { parseServiceHost } from './service-host.ts';

export interface ServiceCredentials {
  /** As written: a host name, or `host:port` for an emulator. */
  readonly host: string;
  readonly keyName: string;
  /** The key's bytes, base64 removed: what HMAC-SHA256 takes. */
  readonly key: Secret;
}

const fieldNames = ['hostname', 'sharedaccesskeyname', 'sharedaccesskey'] as const;
type FieldName = (typeof fieldNames)[number];

const written: Readonly<Record<FieldName, string>> = {
  hostname: 'HostName',
  sharedaccesskeyname: 'SharedAccessKeyName',
  sharedaccesskey: 'SharedAccessKey',
};

const form = 'HostName=…;SharedAccessKeyName=…;SharedAccessKey=…';

/**
 * Parses `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`: fields in any order and case, a trailing `;`, quotes
 * around the text, and white space around it and its fields are accepted. Throws `usage.invalid`; no message quotes any part of the
 * text, because a misplaced semicolon is enough to make a key look like a name.
 */
export function parseServiceConnectionString(text: string | Secret): ServiceCredentials {
  const fields = splitFields(typeof text === 'string' ? text : text.revealText());

  const missing = fieldNames.find((name) => !fields.has(name));
  if (missing !== undefined) throw invalid(`lacks ${written[missing]}: its form is ${form}`);
  const host = fields.get('hostname') ?? '';
  const keyName = fields.get('sharedaccesskeyname') ?? '';

  if (/\.azure-devices\.[a-z]+$/i.test(host)) {
    throw new IotdmError(
      'usage.invalid',
      "this is an IoT Hub's connection string, not the provisioning service's",
    );
  }
  parseServiceHost(host);
  if (!/^[\x21-\x7e]{1,256}$/.test(keyName)) {
    throw invalid('has an unusable SharedAccessKeyName');
  }
  const key = decodeBase64(plainKey(fields.get('sharedaccesskey') ?? ''));
  if (key === undefined) throw invalid('has a SharedAccessKey that is not base64');
  return { host, keyName, key: Secret.fromBytes(key) };
}

function splitFields(text: string): ReadonlyMap<FieldName, string> {
  const plain = plainConnectionString(text);
  const problem = connectionStringProblem(plain);
  if (problem !== undefined) throw invalid(problem);
  const parts = plain.split(';').map((part) => part.trim());
  if (parts.at(-1) === '') parts.pop();
  if (parts.length === 0) throw invalid('is empty');

  const names = parts.map((part) => nameOf(part));
  if (names.includes('deviceid')) {
    throw new IotdmError('usage.invalid', "this is a device's connection string, not the service's");
  }

  const fields = new Map<FieldName, string>();
  for (const [index, part] of parts.entries()) {
    const name = fieldNames.find((known) => known === names[index]);
    if (name === undefined) throw unknownPart(part, index + 1);
    if (fields.has(name)) throw invalid(`names ${written[name]} twice`);
    const value = plainValue(part.slice(part.indexOf('=') + 1));
    if (value === '') throw invalid(`has an empty ${written[name]}`);
    fields.set(name, value);
  }
  return fields;
}

function unknownPart(part: string, number: number): IotdmError {
  const end = part.indexOf('=');
  const typed = end === -1 ? '' : part.slice(0, end).trim();
  const meant = meantField(typed, Object.values(written));
  if (meant !== undefined) return invalid(`has a field "${typed}"; did you mean ${meant}?`);
  return invalid(`has an unknown part, number ${number}: its form is ${form}`);
}

function nameOf(part: string): string | undefined {
  const end = part.indexOf('=');
  return end === -1 ? undefined : part.slice(0, end).trim().toLowerCase();
}

function invalid(problem: string): IotdmError {
  return new IotdmError('usage.invalid', `the provisioning service's connection string ${problem}`);
}
