/**
 * What IoT Hub takes as tags and desired properties (Azure's "Understand and use device twins in IoT Hub"), and DPS as
 * the initial twin therefore. Written anew, as all rules by which iotdm is judged.
 */

import { ServiceError, serviceErrorCodes } from './service-error.ts';

const deepestLevel = 10;
const longestKey = 1024;
const longestText = 4096;
const leastInteger = -4503599627370496;
const greatestInteger = 4503599627370495;

/** Control characters (C0 and C1), a blank, and what stands for paths and for the hub's own members. */
// eslint-disable-next-line no-control-regex -- these are what it looks for
const refusedInKeys = /[\u0000-\u001f\u007f-\u009f .$]/;

/**
 * @param name the member, for messages: `initialTwin.tags`
 * @param largest in bytes, as the hub counts: keys and texts by their UTF-8, numbers 8, booleans 4
 * @throws ServiceError 400 naming the place
 */
export function checkTwinPart(part: object, name: string, largest: number): void {
  const size = sizeOf(part, name, 0);
  if (size <= largest) return;
  throw refused(`${name} has ${size} bytes, which is more than the ${largest} that IoT Hub keeps`);
}

/** @param level how many objects it stands in */
function sizeOf(value: unknown, name: string, level: number): number {
  if (typeof value === 'number') return sizeOfNumber(value, name);
  if (typeof value === 'string') return sizeOfText(value, name);
  if (typeof value === 'boolean') return 4;
  if (typeof value !== 'object' || value === null) return 0;
  if (level > deepestLevel) throw refused(`${name} is nested more than ${deepestLevel} levels deep`);
  if (Array.isArray(value)) {
    return value.reduce<number>((sum, item, index) => sum + sizeOf(item, `${name}[${index}]`, level + 1), 0);
  }
  let size = 0;
  for (const [key, item] of Object.entries(value)) {
    checkKey(key, name);
    size += Buffer.byteLength(key) + sizeOf(item, `${name}.${key}`, level + 1);
  }
  return size;
}

function checkKey(key: string, name: string): void {
  if (key === '') throw refused(`${name} has an empty key`);
  if (Buffer.byteLength(key) > longestKey)
    throw refused(`${name} has a key of more than ${longestKey} bytes`);
  if (!refusedInKeys.test(key)) return;
  // Written as JSON, a control character does not get into a message as such.
  const shown = JSON.stringify(key.slice(0, 60));
  throw refused(
    `the key ${shown} in ${name} has a character that IoT Hub does not take: . $ blank or control`,
  );
}

function sizeOfNumber(value: number, name: string): number {
  if (Number.isInteger(value) && (value < leastInteger || value > greatestInteger)) {
    throw refused(
      `${name} is an integer beyond those that IoT Hub takes, ${leastInteger} to ${greatestInteger}`,
    );
  }
  return 8;
}

function sizeOfText(value: string, name: string): number {
  const size = Buffer.byteLength(value);
  if (size > longestText) throw refused(`${name} is a text of more than ${longestText} bytes`);
  return size;
}

function refused(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidEnrollment, message);
}
