/**
 * The six digits of Azure's services: an HTTP status, then which error of that status. Microsoft documents the statuses
 * of DPS, not its six digits, and both for IoT Hub; so every explanation says what it rests on.
 *
 * Sources: "Troubleshooting with Azure IoT Hub Device Provisioning Service" (statuses of DPS), "IoT Hub API common error
 * codes" (six digits of IoT Hub), and what DPS itself answered, in public reports (six digits of DPS).
 */
import type { ErrorCode, ErrorReason } from '../../src/errors.ts';
import { errorCodeOfStatus } from '../../src/dps/service-errors.ts';
import { ownCodes } from './own-codes.ts';
import { reasonEntries } from './reasons.ts';
import type { Entry } from './entry.ts';

interface StatusEntry {
  readonly name: string;
  readonly meaning: string;
  readonly cause: string;
  readonly fix?: string;
}

/** The statuses that Microsoft documents for DPS. */
const documented: Readonly<Record<number, StatusEntry>> = {
  400: {
    name: 'Bad Request',
    meaning: 'the request cannot be parsed, or what it describes is not valid',
    cause: 'a registration id, device id or endorsement key that the service does not accept',
  },
  401: {
    name: 'Unauthorized',
    meaning: 'the authorization token cannot be validated: it expired, or is not for this address',
    cause:
      'a key that was rolled over, a connection string of another service, or a wrong clock; in TPM registration the first 401 is part of the protocol and no error',
  },
  404: {
    name: 'Not Found',
    meaning: 'the service, or the enrollment or registration that is asked for, does not exist',
    cause: 'an id that is mistyped, deleted or of another service',
  },
  405: {
    name: 'Method Not Allowed',
    meaning: 'the service does not know this method here',
    cause: 'an id is missing from the address, or --dps names another kind of service',
    fix: 'check --dps; -vv shows the requests',
  },
  409: {
    name: 'Conflict',
    meaning: 'the request conflicts with what the service holds',
    cause: 'the enrollment exists already, or another request changes it at the same time',
  },
  412: {
    name: 'Precondition Failed',
    meaning: 'the ETag of the request is not that of what the service holds',
    cause: 'somebody else changed it between reading and writing',
  },
  415: {
    name: 'Unsupported Media Type',
    meaning: 'the service does not accept the format of the request',
    cause: 'a proxy that changes requests, or --dps names another kind of service',
    fix: 'check --dps; -vv shows the requests',
  },
  429: {
    name: 'Too Many Requests',
    meaning: 'the service is throttling: it was sent more than its limit',
    cause: 'several tools or lines share the limit of one service',
    fix: 'run the same command again in a minute; iotdm enrollment import takes --rate to stay below the limit',
  },
  500: {
    name: 'Internal Server Error',
    meaning: 'the service failed inside',
    cause: 'trouble at the service, mostly a passing one',
  },
};

/** Statuses that HTTP defines and the table of DPS leaves out. */
const ofHttp: Readonly<Record<number, StatusEntry>> = {
  403: {
    name: 'Forbidden',
    meaning: 'the credentials are good and do not allow this',
    cause: 'a policy without the right, or a firewall rule of the service',
  },
  407: {
    name: 'Proxy Authentication Required',
    meaning: 'the proxy wants credentials',
    cause: 'a proxy between this machine and the service',
    fix: 'give the proxy with its user in HTTPS_PROXY, and check it with: curl -v https://global.azure-devices-provisioning.net',
  },
  408: {
    name: 'Request Timeout',
    meaning: 'the request took too long to arrive',
    cause: 'a slow network',
    fix: 'run the same command again',
  },
  413: {
    name: 'Content Too Large',
    meaning: 'the request is too large',
    cause: 'more than ten enrollments in one request, or a large initial twin',
  },
  502: {
    name: 'Bad Gateway',
    meaning: 'a gateway before the service got no good answer',
    cause: 'trouble at the service or at a proxy',
  },
  503: {
    name: 'Service Unavailable',
    meaning: 'the service is not available',
    cause: 'trouble or maintenance at the service',
  },
  504: {
    name: 'Gateway Timeout',
    meaning: 'a gateway before the service got no answer in time',
    cause: 'trouble at the service or at a proxy',
  },
};

interface SixDigits {
  readonly service: 'DPS' | 'IoT Hub';
  /** How much the entry rests on: Microsoft's own list, or what the service was seen to answer. */
  readonly basis: 'documented' | 'observed';
  readonly meaning: string;
  readonly cause: string;
  readonly fix?: string;
  /** Of a number that stands for several things: which of them, in a word, and what mends that one. */
  readonly about?: string;
  readonly reason?: ErrorReason;
}

const sixDigits: Readonly<Record<number, readonly SixDigits[]>> = {
  400004: [
    {
      service: 'DPS',
      basis: 'observed',
      meaning: 'where its message says so: the endorsement key is invalid, or is not that of the enrollment',
      cause:
        'another device, an endorsement key that was cut short in copying, or an EK of another template than the one that was enrolled',
      about: 'endorsement key',
      reason: 'endorsement-key-refused',
    },
    {
      service: 'DPS',
      basis: 'observed',
      meaning: 'where its message says so: the registration id is invalid',
      cause: 'characters that DPS does not take, or an id that is too long',
      about: 'registration id',
      reason: 'registration-id-refused',
    },
    {
      service: 'DPS',
      basis: 'observed',
      meaning: 'where its message says so: the version of the API is not supported there',
      cause: 'a cloud that is behind the others, as those of China and of the US government are at times',
      about: 'API version',
      reason: 'api-version-refused',
    },
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'the body of the request is not valid',
      cause: 'a value that IoT Hub does not accept',
    },
  ],
  400027: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'the connection was closed because the same identity connected again',
      cause: 'two devices with one identity, or one device that connects twice',
      fix: 'give each device an identity of its own; iotdm slot show N says which one this device has',
    },
  ],
  401000: [
    {
      service: 'DPS',
      basis: 'observed',
      meaning: 'unauthorized',
      cause: 'a wrong ID scope, registration id or key',
    },
  ],
  401002: [
    {
      service: 'DPS',
      basis: 'observed',
      meaning: 'unauthorized access',
      cause:
        'credentials that the service refuses; the same number comes when DPS may not register devices with its IoT Hub',
      fix: 'check the connection string and the clock of this machine; at registration also check in the portal that the linked IoT Hub is still linked with a valid key',
    },
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'unauthorized access to IoT Hub',
      cause: 'a key or token of another device or hub',
      fix: 'check which identity the device has with: iotdm slot show N',
    },
  ],
  401003: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'the authorization token cannot be validated',
      cause: 'a token that expired, a key that was renewed in IoT Hub, or a wrong clock on the device',
      fix: 'issue a new token with: iotdm slot token N; if it is refused too, the slot holds another key than IoT Hub',
    },
  ],
  403002: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'the daily quota of messages is used up',
      cause: 'more messages than the tier of the hub includes',
      fix: 'wait for midnight UTC, or add units to the hub in the portal',
    },
  ],
  404001: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'IoT Hub does not have this device',
      cause: 'the device was deleted from the hub, or its slot names another hub or device',
      fix: 'check which identity the device has with: iotdm slot show N',
    },
  ],
  404201: [
    {
      service: 'DPS',
      basis: 'observed',
      meaning: 'there is no such enrollment',
      cause: 'an id that is mistyped or deleted, or an enrollment in another service',
      fix: 'look at what there is with: iotdm enrollment list; create it with: iotdm enrollment create',
    },
  ],
  404202: [
    {
      service: 'DPS',
      basis: 'observed',
      meaning: 'something that belongs to an enrollment is not there, presumably its registration',
      cause: 'the device was enrolled and has not registered yet',
      fix: 'register the device with: iotdm device register; see its enrollment with: iotdm enrollment show ID',
    },
  ],
  409001: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'the device exists already',
      cause: 'it was created before, perhaps by another tool',
    },
  ],
  412001: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'the ETag of the request is not that of what IoT Hub holds',
      cause: 'somebody else changed it between reading and writing',
    },
  ],
  413001: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'the message is too large',
      cause: 'a message above the limit of IoT Hub',
    },
  ],
  429001: [
    {
      service: 'IoT Hub',
      basis: 'documented',
      meaning: 'IoT Hub is throttling',
      cause: 'more operations than the tier of the hub allows',
      fix: 'run the same command again in a minute',
    },
  ],
};

/** The codes that are in the table, for the nearest one to a mistyped one. */
export const knownServiceCodes = Object.keys(sixDigits);

export interface ServiceEntry extends Entry {
  readonly name: string;
}

/** Whether a status is one that a service of HTTP may give for a failure. */
export function isFailureStatus(status: number): boolean {
  return Number.isInteger(status) && status >= 400 && status <= 599;
}

/** An HTTP status as Azure's services use it. */
export function statusEntry(status: number): ServiceEntry {
  const found = documented[status] ?? ofHttp[status];
  const basis =
    documented[status] === undefined
      ? "not in Microsoft's table for DPS, explained as HTTP defines it"
      : 'documented by Microsoft for DPS';
  return {
    name: `HTTP ${status}${found === undefined ? '' : ` ${found.name}`}`,
    meaning: `${found?.meaning ?? familyMeaning(status)} (${basis})`,
    cause: found?.cause ?? (status < 500 ? 'named in the message of the service' : 'trouble at the service'),
    fix: found?.fix ?? ownCodes[errorCodeOfStatus(status)].fix,
  };
}

/** Six digits of DPS or IoT Hub; several where both use the number. Unknown ones are explained by their status. */
export function serviceEntries(code: number): readonly ServiceEntry[] {
  const status = Math.trunc(code / 1000);
  const found = sixDigits[code] ?? [];
  const known = found.map(({ service, basis, meaning, cause, fix, about, reason }) => ({
    name: `${service} ${code}${about === undefined ? '' : ` (${about})`}`,
    meaning:
      basis === 'documented'
        ? `${meaning} (documented by Microsoft for ${service})`
        : `${meaning} (seen from ${service}; Microsoft documents only the status ${status})`,
    cause,
    fix: reason === undefined ? (fix ?? ownCodes[errorCodeOfStatus(status)].fix) : reasonEntries[reason].fix,
  }));
  if (found.some(({ service }) => service === 'DPS')) return known;
  // DPS uses numbers of IoT Hub too, such as 429001 when it throttles.
  const { name, meaning, cause, fix } = statusEntry(status);
  const unknown = `Microsoft does not document ${code} for DPS; its first three digits are ${name}`;
  return [...known, { name, meaning: `${unknown}: ${meaning}`, cause, fix }];
}

/** The fix of DPS for a code that is in the table with one of its own. */
export function provisioningFix(
  code: number,
): { readonly errorCode: ErrorCode; readonly fix: string } | undefined {
  const fix = sixDigits[code]?.find(({ service }) => service === 'DPS')?.fix;
  return fix === undefined ? undefined : { errorCode: errorCodeOfStatus(Math.trunc(code / 1000)), fix };
}

function familyMeaning(status: number): string {
  return status < 500 ? 'the service refused the request' : 'the service failed';
}
