/** Reads what the device API of DPS answers. Whoever answers is not trusted; see service-answers.ts. */
import { decodeBase64 } from '../encoding.ts';
import { deviceIdProblem, hostNameProblem, type TwinObject } from './enrollment.ts';
import { AnswerShapeError, member, object, oneOf, optional, text, twinObject } from './service-answers.ts';

export interface Assigning {
  readonly status: 'assigning';
  /** Fit for a path. */
  readonly operationId: string;
}

export interface Assigned {
  readonly status: 'assigned';
  readonly deviceId: string;
  readonly assignedHub: string;
  readonly substatus: string | null;
  readonly payload: TwinObject | null;
  /** The device's key, for the TPM to open. */
  readonly authenticationKey: Buffer;
}

export interface NotAssigned {
  readonly status: 'failed' | 'disabled' | 'unassigned';
  /** Six digits. */
  readonly errorCode?: number;
  readonly errorMessage?: string;
}

const statuses = ['unassigned', 'assigning', 'assigned', 'failed', 'disabled'] as const;

const operationIdPattern = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,255}$/;

/**
 * Definition RegistrationOperationStatus.
 * @param expectedId the registration id that was asked for, in any case
 * @throws AnswerShapeError
 */
export function registrationAnswer(value: unknown, expectedId: string): Assigning | Assigned | NotAssigned {
  const answer = object(value, 'registration');
  const status = oneOf(lowerCase(answer['status']), 'status', statuses);
  if (status === 'assigning') return { status, operationId: operationId(answer['operationId']) };
  const state = optional(answer['registrationState'], (found) => object(found, 'registrationState')) ?? {};
  const registrationId = optional(state['registrationId'], (id) => text(id, 'registrationId'));
  if (registrationId !== undefined && registrationId.toLowerCase() !== expectedId.toLowerCase()) {
    throw new AnswerShapeError('a registration that was not asked for');
  }
  if (status !== 'assigned') {
    const errorCode = state['errorCode'];
    return {
      status,
      ...(Number.isSafeInteger(errorCode) ? { errorCode: errorCode as number } : {}),
      ...member(state, 'errorMessage', text),
    };
  }
  const deviceId = text(state['deviceId'], 'deviceId');
  const assignedHub = text(state['assignedHub'], 'assignedHub');
  if (deviceIdProblem(deviceId) !== undefined) throw new AnswerShapeError('deviceId is none');
  if (hostNameProblem(assignedHub) !== undefined) throw new AnswerShapeError('assignedHub is no host name');
  return {
    status,
    deviceId,
    assignedHub,
    substatus: optional(state['substatus'], (found) => text(found, 'substatus')) ?? null,
    payload: optional(state['payload'], (found) => twinObject(found, 'payload')) ?? null,
    authenticationKey: keyBlob(object(state['tpm'], 'tpm')['authenticationKey']),
  };
}

/** The body of the 401 by which DPS begins; undefined where it is a refusal and carries no key. */
export function challengeOf(body: string): Buffer | undefined {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, 'authenticationKey'))
    return undefined;
  return keyBlob((value as Record<string, unknown>)['authenticationKey']);
}

function keyBlob(value: unknown): Buffer {
  const blob = decodeBase64(text(value, 'authenticationKey'));
  if (blob === undefined) throw new AnswerShapeError('authenticationKey is not base64');
  return blob;
}

function operationId(value: unknown): string {
  const id = text(value, 'operationId');
  if (!operationIdPattern.test(id)) throw new AnswerShapeError('operationId is not fit for an address');
  return id;
}

function lowerCase(value: unknown): unknown {
  return typeof value === 'string' ? value.toLowerCase() : value;
}
