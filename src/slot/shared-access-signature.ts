/**
 * Shared access signatures of a device or module, in IoT Hub's documented form: the resource URI is URL-encoded, and
 * the encoded text is what is signed.
 *
 * Source: "Control access to IoT Hub with shared access signatures", Azure documentation.
 */
import type { DeviceIdentity } from './device-identity.ts';

/** `HOST/devices/DEVICE[/modules/MODULE]`, URL-encoded. */
export function encodedResource({ hostName, deviceId, moduleId }: DeviceIdentity): string {
  const module = moduleId === null ? '' : `/modules/${moduleId}`;
  return encode(`${hostName}/devices/${deviceId}${module}`);
}

/** The text that the slot's key signs. @param expiry Unix seconds */
export function signedText(resource: string, expiry: number): Buffer {
  return Buffer.from(`${resource}\n${expiry}`, 'utf8');
}

/** @param expiry Unix seconds @param hmac HMAC-SHA256 of `signedText` by the key */
export function formatSignature(resource: string, expiry: number, hmac: Buffer): string {
  return `SharedAccessSignature sr=${resource}&sig=${encode(hmac.toString('base64'))}&se=${expiry}`;
}

/** The connection string that carries a signature in place of the key. */
export function formatTokenConnectionString(identity: DeviceIdentity, signature: string): string {
  const module = identity.moduleId === null ? '' : `;ModuleId=${identity.moduleId}`;
  return `HostName=${identity.hostName};DeviceId=${identity.deviceId}${module};SharedAccessSignature=${signature}`;
}

/** RFC 3986, with the same letter case in `%2a` as Azure's SDKs: the encoded text is what is signed. */
function encode(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16)}`,
  );
}
