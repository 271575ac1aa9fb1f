/** Members of JSON objects that callers send, and how the service refuses them. */

import { ServiceError, serviceErrorCodes } from './service-error.ts';

export type Members = Readonly<Record<string, unknown>>;

/** The members of a JSON object. Throws ServiceError 400 for anything else. */
export function object(value: unknown, name: string): Members {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Members;
  throw refused(`${name} is not a JSON object`);
}

/** The member in an object of its own, or an empty one when it is absent. */
export function member<Value>(
  members: Members,
  name: string,
  check: (value: unknown, name: string) => Value,
): Readonly<Record<string, Value>> {
  const value = members[name];
  return present(value) ? { [name]: check(value, name) } : {};
}

/** Members that are null count as absent. */
export function present(value: unknown): boolean {
  return value !== undefined && value !== null;
}

export function matching(value: unknown, name: string, pattern: RegExp, form: string): string {
  if (!present(value)) throw refused(`${name} is missing`);
  if (typeof value === 'string' && pattern.test(value)) return value;
  throw refused(`${name} is not valid: it must be ${form}`);
}

export function oneOf(value: unknown, name: string, values: readonly string[]): string {
  if (typeof value === 'string' && values.includes(value)) return value;
  throw refused(`${name} is not one of ${values.join(', ')}`);
}

export function flag(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value;
  throw refused(`${name} is not true or false`);
}

/** The refusal of an enrollment that is not as it must be. */
export function refused(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidEnrollment, message);
}
