/**
 * What a device does at its IoT Hub by itself, over HTTPS. Just enough to see whether the hub takes a device's token.
 *
 * Source: IoT Hub REST API, "Device - Receive Device Bound Notification" and "Device - Abandon Device Bound
 * Notification", api-version 2021-04-12.
 */
import { pageInPlace, refusal, send, unexpected, type HubAnswer, type HubOptions } from './hub-request.ts';

export interface HubDevice {
  readonly deviceId: string;
  readonly moduleId: string | null;
}

/** `waiting`: a message to the device was waiting, and has been given back. `none`: there was none. */
export type WaitingMessage = 'none' | 'waiting';

/**
 * Looks for a message to the device, as devices do, and gives back what it finds: it stays in the queue, with one more
 * delivery counted.
 * @param token the device's shared access signature
 * @throws IotdmError `auth.refused` where the hub does not take the token, `service.*`, `network.*`, `interrupted.signal`
 */
export async function lookForMessage(
  options: HubOptions,
  { deviceId, moduleId }: HubDevice,
  token: string,
): Promise<WaitingMessage> {
  const module = moduleId === null ? '' : `/modules/${encodeURIComponent(moduleId)}`;
  const queue = `/devices/${encodeURIComponent(deviceId)}${module}/messages/devicebound`;
  const answer = await send(options, { method: 'GET', resource: queue, token });
  if (answer.status === 204) return 'none';
  if (answer.status !== 200) throw refusal(options, answer);
  const etag = answer.headers.etag?.replace(/^"|"$/g, '');
  // Whoever answers something else than a message has not judged the token.
  const page = pageInPlace(options, answer);
  if (page !== undefined) throw page;
  if (etag === undefined || !mayBeMessage(answer))
    throw unexpected(options, 'it is no message to the device');
  const resource = `${queue}/${encodeURIComponent(etag)}/abandon`;
  // Where that fails, the message comes back by itself when its lock ends.
  await send(options, { method: 'POST', resource, token }).catch(() => undefined);
  return 'waiting';
}

/** A message may be of any type, also a page; then the hub says in headers of its own what it is. */
function mayBeMessage({ headers }: HubAnswer): boolean {
  const isHtml = /html/i.test(headers['content-type'] ?? '');
  return !isHtml || Object.keys(headers).some((name) => name.startsWith('iothub-'));
}
