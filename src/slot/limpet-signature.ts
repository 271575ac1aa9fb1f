/** Shared access signatures as Limpet writes them: the resource is signed, and stands in `sr`, as it is. */
import type { DeviceIdentity } from './device-identity.ts';
import { encodedName } from './logical-device-id.ts';

/** `HOST/devices/DEVICE[/modules/MODULE]` */
export function limpetResource({ hostName, deviceId, moduleId }: DeviceIdentity): string {
  return `${hostName}/devices/${deviceId}${moduleId === null ? '' : `/modules/${moduleId}`}`;
}

/** @param expiry Unix seconds @param hmac HMAC-SHA256 of the resource, a line feed and the expiry by the key */
export function formatLimpetSignature(resource: string, expiry: number, hmac: Buffer): string {
  return `SharedAccessSignature sr=${resource}&sig=${encodedName(hmac)}&se=${expiry}`;
}
