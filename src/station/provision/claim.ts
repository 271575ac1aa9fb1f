/** Whose identity stands in the slot: an identity that is not this registration's is nobody's to replace unasked. */
import type { StoredEnrollment } from '../../dps/enrollment.ts';
import { IotdmError } from '../../errors.ts';
import type { SlotView } from '../../slot/slots.ts';
import type { RegistrationRecord } from '../registration-records.ts';

/**
 * `empty`: nothing stands there. `ours`: the identity that this registration was given, as the service or a record of this
 * station says. `named`: one of the name that this registration would be given, of which nobody here knows more. `replace`:
 * something else, which may be replaced.
 */
export type Claim = 'empty' | 'ours' | 'named' | 'replace';

export interface ClaimFacts {
  readonly view: SlotView;
  readonly registrationId: string;
  readonly idScope: string | undefined;
  /** The device id that was asked for. */
  readonly deviceId: string | undefined;
  /** What this station has registered the slot's key as. */
  readonly record: RegistrationRecord | undefined;
  /** What the service holds; null for no enrollment, undefined where it was not asked. */
  readonly stored: StoredEnrollment | null | undefined;
  readonly overwrite: boolean;
}

/** @throws IotdmError `tpm.slot-foreign`, `tpm.slot-incomplete`, `tpm.slot-not-empty` */
export function claim(facts: ClaimFacts): Claim {
  const { view, overwrite } = facts;
  if (view.state === 'foreign') {
    throw refusal('tpm.slot-foreign', view, `slot ${view.slot} is foreign: ${view.remark ?? ''}`);
  }
  if (view.state === 'empty') return 'empty';
  if (view.state === 'incomplete') {
    if (overwrite) return 'replace';
    throw refusal('tpm.slot-incomplete', view, `slot ${view.slot} is incomplete: ${view.remark ?? ''}`);
  }
  const owner = ownerOf(facts);
  if (owner !== undefined) return owner;
  if (overwrite) return 'replace';
  throw notThisDevices(facts);
}

/** The refusal of a slot that holds what is not this registration's. */
export function notThisDevices({ view, deviceId, registrationId }: ClaimFacts): IotdmError {
  const who = deviceId ?? registrationId;
  return refusal(
    'tpm.slot-not-empty',
    view,
    `slot ${view.slot} is not empty: it holds ${view.uri ?? 'a key'}, which is not the identity of ${who}`,
  );
}

function ownerOf(facts: ClaimFacts): 'ours' | 'named' | undefined {
  const { view, registrationId, deviceId, stored, record, idScope } = facts;
  if (view.moduleId !== null) return undefined;
  // Another id was asked for than stands there: that is another device.
  const wanted = deviceId ?? stored?.deviceId;
  if (wanted !== undefined && wanted !== view.deviceId) return undefined;
  if (isAssigned(stored, view)) return 'ours';
  if (record !== undefined && record.registrationId === registrationId) {
    const isSameScope = idScope === undefined || record.idScope === idScope;
    const isItsUri = record.assignedHub === view.hostName && record.deviceId === view.deviceId;
    return isSameScope && isItsUri ? 'ours' : undefined;
  }
  if (stored !== undefined) return undefined;
  return (wanted ?? registrationId) === view.deviceId ? 'named' : undefined;
}

/** Whether the service says that it has given this identity to the device. */
export function isAssigned(stored: StoredEnrollment | null | undefined, view: SlotView): boolean {
  const state = stored?.registrationState;
  if (state === undefined || String(state['status']).toLowerCase() !== 'assigned') return false;
  const { assignedHub, deviceId } = state;
  return (
    typeof assignedHub === 'string' &&
    assignedHub.toLowerCase() === view.hostName?.toLowerCase() &&
    deviceId === view.deviceId
  );
}

function refusal(
  code: `tpm.slot-${'foreign' | 'incomplete' | 'not-empty'}`,
  view: SlotView,
  message: string,
): IotdmError {
  const { slot, state, uri, keyName, interrupted } = view;
  return new IotdmError(code, message, { details: { slot, state, uri, keyName, interrupted } });
}
