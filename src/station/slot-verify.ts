/** What can be proved of a slot on demand: in the TPM, against a connection string, and at the hub. Changes nothing. */
import { because, IotdmError, type ErrorCode } from '../errors.ts';
import { lookForMessage } from '../hub/device-hub.ts';
import type { HubOptions } from '../hub/hub-request.ts';
import { formatUri, type DeviceCredentials, type DeviceIdentity } from '../slot/device-identity.ts';
import { keyHandle } from '../slot/layout.ts';
import { proveKey, signNonce } from '../slot/proof.ts';
import { showSlot, slotToken, type SlotAccess, type SlotView } from '../slot/slots.ts';

/** In the order in which they are made and shown. */
export const slotCheckIds = ['parts', 'interrupted', 'signs', 'connection-string', 'hub'] as const;

export type SlotCheckId = (typeof slotCheckIds)[number];

export interface SlotCheck {
  readonly id: SlotCheckId;
  readonly status: 'pass' | 'fail' | 'skip';
  readonly message: string;
  /** Set on `fail`. */
  readonly error?: IotdmError;
}

export interface SlotReport {
  readonly view: SlotView;
  /** No check failed. */
  readonly ok: boolean;
  readonly checks: readonly SlotCheck[];
}

export interface SlotVerification {
  /** What the slot should hold. */
  readonly credentials?: DeviceCredentials;
  /** The hub to ask; where it leads is told from the slot's own URI. */
  readonly hub?: (identity: DeviceIdentity) => Promise<HubOptions> | HubOptions;
  /** Unix seconds. */
  readonly now: number;
}

/** Long enough for a hub whose clock is not ours. */
const TOKEN_LIFETIME_S = 300;

/**
 * Four TPM commands, one more for a connection string and three more for the hub.
 * @throws IotdmError `tpm-unavailable.*`, `interrupted.*`; everything else is in the report
 */
export async function verifySlot(
  { tpm, recovery }: SlotAccess,
  slot: number,
  { credentials, hub, now }: SlotVerification,
): Promise<SlotReport> {
  const view = await showSlot(tpm, slot, recovery);
  const { hostName, deviceId, moduleId } = view;
  const identity = hostName === null || deviceId === null ? undefined : { hostName, deviceId, moduleId };
  const isReady = view.state === 'ready' && identity !== undefined;
  const checks: SlotCheck[] = [checkParts(view), checkInterrupted(view)];
  if (!isReady) {
    const skipped = skip('not checked, as the slot is not ready');
    checks.push(
      { id: 'signs', ...skipped },
      { id: 'connection-string', ...skipped },
      { id: 'hub', ...skipped },
    );
    return { view, ok: false, checks };
  }
  checks.push({ id: 'signs', ...(await checked(() => checkSigns({ tpm, recovery }, slot))) });
  checks.push({
    id: 'connection-string',
    ...(credentials === undefined
      ? skip('not compared, as no connection string was given')
      : await checked(() => compare({ tpm, recovery }, slot, identity, credentials))),
  });
  checks.push({
    id: 'hub',
    ...(hub === undefined
      ? skip('the hub was not asked')
      : await checked(async () => {
          const token = await slotToken(tpm, slot, now + TOKEN_LIFETIME_S, recovery);
          const found = await lookForMessage(await hub(identity), identity, token.sharedAccessSignature);
          const message = found === 'none' ? '' : '; a message was waiting, and was given back';
          return `the hub takes the token that the TPM signed${message}`;
        })),
  });
  return { view, ok: checks.every(({ status }) => status !== 'fail'), checks };
}

type Verdict = Omit<SlotCheck, 'id'>;

function skip(message: string): Verdict {
  return { status: 'skip', message };
}

function fail(error: IotdmError): Verdict {
  return { status: 'fail', message: error.message, error };
}

async function checked(check: () => Promise<string>): Promise<Verdict> {
  try {
    return { status: 'pass', message: await check() };
  } catch (error) {
    const isFinding =
      error instanceof IotdmError && !/^(?:tpm-unavailable|interrupted|internal)/.test(error.code);
    if (!isFinding) throw error;
    return fail(error);
  }
}

function checkParts(view: SlotView): SlotCheck {
  const { slot, state, uri, keyName, remark, interrupted } = view;
  if (state === 'ready') return { id: 'parts', status: 'pass', message: `key and URI stand: ${uri ?? ''}` };
  const codes = {
    empty: 'tpm.slot-empty',
    incomplete: 'tpm.slot-incomplete',
    foreign: 'tpm.slot-foreign',
  } satisfies Record<string, ErrorCode>;
  const what = state === 'empty' ? `slot ${slot} is empty` : `slot ${slot} is ${state}: ${remark ?? ''}`;
  const details = { slot, state, uri, keyName, interrupted };
  return { id: 'parts', ...fail(new IotdmError(codes[state], what, { details })) };
}

function checkInterrupted({ slot, state, remark, interrupted }: SlotView): SlotCheck {
  const id = 'interrupted';
  if (interrupted === null) return { id, status: 'pass', message: 'no change was interrupted' };
  const error = new IotdmError('tpm.slot-incomplete', `slot ${slot}: ${remark ?? ''}`, {
    details: { slot, state, interrupted },
  });
  return { id, ...fail(error) };
}

async function checkSigns({ tpm }: SlotAccess, slot: number): Promise<string> {
  await signNonce(tpm, keyHandle(slot));
  return 'the key signs';
}

async function compare(
  { tpm }: SlotAccess,
  slot: number,
  identity: DeviceIdentity,
  credentials: DeviceCredentials,
): Promise<string> {
  const expected = formatUri(credentials.identity);
  if (formatUri(identity) !== expected) {
    throw new IotdmError('verify.slot', `slot ${slot} holds ${formatUri(identity)}, and not ${expected}`, {
      details: because('other-identity', { slot }),
    });
  }
  await proveKey(tpm, slot, credentials.key, 'in the connection string', 'other-key');
  return 'the slot holds the identity in the connection string, and signs with its key';
}
