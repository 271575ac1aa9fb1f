/** Who a slot stands for: the host, device and module in its URI, and the connection string that says the same. */
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
import { KEY_MAX_BYTES, KEY_MIN_BYTES } from './layout.ts';

export interface DeviceIdentity {
  readonly hostName: string;
  readonly deviceId: string;
  readonly moduleId: string | null;
}

export interface DeviceCredentials {
  readonly identity: DeviceIdentity;
  /** The decoded SharedAccessKey. */
  readonly key: Secret;
}

const hostLabel = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?';
const hostNamePattern = new RegExp(`^(?=.{1,253}$)${hostLabel}(?:\\.${hostLabel})*$`);

/** IoT Hub's rule for device and module ids. */
const idPattern = /^[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}$/;

/** `HOST/DEVICE` or `HOST/DEVICE/MODULE`, as it stands in the TPM. */
export function formatUri({ hostName, deviceId, moduleId }: DeviceIdentity): string {
  return moduleId === null ? `${hostName}/${deviceId}` : `${hostName}/${deviceId}/${moduleId}`;
}

/** What a slot's URI says, or undefined for bytes that are no such URI. */
export function parseUri(bytes: Buffer): DeviceIdentity | undefined {
  const [hostName = '', deviceId = '', moduleId = null, ...rest] = bytes.toString('utf8').split('/');
  const fits =
    hostNamePattern.test(hostName) &&
    idPattern.test(deviceId) &&
    (moduleId === null || idPattern.test(moduleId)) &&
    rest.length === 0;
  return fits ? { hostName, deviceId, moduleId } : undefined;
}

const fieldNames = ['HostName', 'DeviceId', 'ModuleId', 'SharedAccessKey'] as const;
type FieldName = (typeof fieldNames)[number];

/**
 * Parses `HostName=…;DeviceId=…[;ModuleId=…];SharedAccessKey=…`: fields in any order, names in any case, a trailing `;`
 * quotes and white space around it allowed. Never quotes a value in an error: the wrong field may hold the key.
 * @throws IotdmError `input.invalid`
 */
export function parseConnectionString(text: string): DeviceCredentials {
  const plain = plainConnectionString(text);
  const problem = connectionStringProblem(plain);
  if (problem !== undefined) throw invalid(problem);
  const fields = splitFields(plain);
  const required = (name: FieldName): string => {
    const value = fields.get(name);
    if (value === undefined) throw invalid(`has no ${name}`);
    return value;
  };
  const hostName = required('HostName');
  if (!hostNamePattern.test(hostName)) throw invalid('has a HostName that is not a host name');
  const deviceId = required('DeviceId');
  if (!idPattern.test(deviceId)) throw invalid('has a DeviceId with characters that IoT Hub does not allow');
  const moduleId = fields.get('ModuleId') ?? null;
  if (moduleId !== null && !idPattern.test(moduleId)) {
    throw invalid('has a ModuleId with characters that IoT Hub does not allow');
  }
  const key = decodeBase64(plainKey(required('SharedAccessKey')));
  if (key === undefined) throw invalid('has a SharedAccessKey that is not base64');
  if (key.length < KEY_MIN_BYTES || key.length > KEY_MAX_BYTES) {
    throw invalid(
      `has a SharedAccessKey of ${key.length} bytes, and a slot takes ${KEY_MIN_BYTES} to ${KEY_MAX_BYTES}`,
    );
  }
  // With a host of 253 and ids of 128 characters at most, the URI keeps below the 512 bytes that a slot takes.
  return { identity: { hostName, deviceId, moduleId }, key: Secret.fromBytes(key) };
}

function splitFields(text: string): Map<FieldName, string> {
  if (text === '') throw invalid('is empty');
  const fields = new Map<FieldName, string>();
  for (const part of splitParts(text)) {
    const [typed = '', ...rest] = part.split('=');
    const name = fieldNames.find((candidate) => candidate.toLowerCase() === typed.trim().toLowerCase());
    if (name === undefined) throw unknownField(typed);
    if (fields.has(name)) throw invalid(`has ${name} twice`);
    const value = plainValue(rest.join('='));
    if (value === '') throw invalid(`has an empty ${name}`);
    fields.set(name, value);
  }
  return fields;
}

/** A device id may hold `;`, so a piece without `NAME=` in front belongs to the one before it. */
function splitParts(text: string): string[] {
  const parts: string[] = [];
  for (const piece of text.split(';')) {
    if (/^\s*[A-Za-z][A-Za-z0-9]*\s*=/.test(piece) || parts.length === 0) parts.push(piece);
    else parts.push(`${parts.pop() ?? ''};${piece}`);
  }
  return parts.map((part) => part.replace(/;\s*$/, '')).filter((part) => part.trim() !== '');
}

function unknownField(typed: string): IotdmError {
  const name = typed.trim().toLowerCase();
  if (name === 'sharedaccesskeyname') {
    return invalid("is a service's, not a device's: it has SharedAccessKeyName and no DeviceId");
  }
  if (name === 'x509') return invalid('is for a device with a certificate: it has no key for a slot');
  if (name === 'sharedaccesssignature')
    return invalid('holds a token that expires: a slot needs the key itself');
  const meant = meantField(typed, fieldNames);
  if (meant !== undefined) return invalid(`has a field "${typed.trim()}"; did you mean ${meant}?`);
  // Only a plain word is safe to repeat: anything else may be a piece of the key.
  const shown = /^[A-Za-z]{1,24}$/.test(typed.trim()) ? ` "${typed.trim()}"` : '';
  return invalid(`has a field${shown} that is not HostName, DeviceId, ModuleId or SharedAccessKey`);
}

function invalid(problem: string): IotdmError {
  return new IotdmError('input.invalid', `the connection string ${problem}`);
}
