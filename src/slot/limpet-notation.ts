/** How Limpet writes what is in a slot: names of TPM objects, and shared access signatures. */
import type { DeviceIdentity } from './device-identity.ts';

/** Letters, digits and `! ( ) * - . _` stay, every other byte becomes `%xx` in lower-case hex. */
export function limpetUrlEncoding(text: string): string {
  return [...Buffer.from(text, 'utf8')]
    .map((byte) => {
      const character = String.fromCharCode(byte);
      return /[A-Za-z0-9!()*\-._]/.test(character) ? character : `%${byte.toString(16).padStart(2, '0')}`;
    })
    .join('');
}

/** The name of a TPM object (nameAlg and digest): base64, URL-encoded. */
export function limpetName(name: Buffer): string {
  return limpetUrlEncoding(name.toString('base64'));
}

/** `HOST/devices/DEVICE[/modules/MODULE]`: what is signed, and stands in `sr` as it is. */
export function limpetResource({ hostName, deviceId, moduleId }: DeviceIdentity): string {
  return `${hostName}/devices/${deviceId}${moduleId === null ? '' : `/modules/${moduleId}`}`;
}

/** @param expiry Unix seconds @param hmac HMAC-SHA256 of the resource, a line feed and the expiry by the key */
export function limpetSignature(resource: string, expiry: number, hmac: Buffer): string {
  const signature = limpetUrlEncoding(hmac.toString('base64'));
  return `SharedAccessSignature sr=${resource}&sig=${signature}&se=${expiry}`;
}
