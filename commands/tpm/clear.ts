import { hex32 } from '../../src/encoding.ts';
import { SRK_HANDLE } from '../../src/slot/layout.ts';
import type { SlotView } from '../../src/slot/slots.ts';
import type { ClearPlan } from '../../src/station/tpm-clear.ts';
import type { Slots } from '../shared/context.ts';
import type { Verb } from '../shared/verb.ts';

export interface TpmClearResult {
  readonly cleared: boolean;
  /** What stood in the TPM. */
  readonly slots: readonly SlotView[];
  readonly persistentHandles: readonly string[];
  readonly nvIndexes: readonly string[];
  readonly dryRun?: true;
}

export const tpmClear: Verb<[], object, TpmClearResult> = {
  name: 'clear',
  summary: 'destroy everything that the owner of the TPM has put into it',
  description:
    'Clears the TPM (TPM2_Clear, TPM 2.0 Library, Part 3, section 24.6): all slots, all persistent keys and all NV ' +
    'indexes but those of the platform are destroyed, and the authorization values of owner, endorsement and lockout ' +
    'become empty. The storage seed changes, so no key made before can be loaded again. The endorsement seed stays: ' +
    'the endorsement key of template L-1 and its certificate are the same afterwards. Says what will be lost and asks, ' +
    'unless --yes is given.',
  examples: [
    'iotdm tpm clear --dry-run',
    'iotdm tpm clear',
    'iotdm tpm clear --yes --lockout-auth-file lockout.txt',
  ],
  seeAlso: ['iotdm slot list', 'iotdm slot clear', 'iotdm tpm check'],
  settings: ['tpm', 'timeout', 'change', 'confirm', 'dry-run'],
  async run(context) {
    const { planClear } = await import('../../src/station/tpm-clear.ts');
    const { tpm, recovery } = await context.openSlotsToChange();
    const plan = await planClear(tpm);
    const result = {
      slots: plan.slots,
      persistentHandles: plan.persistentHandles.map(hex32),
      nvIndexes: plan.nvIndexes.map(hex32),
    };
    if (plan.ekComesBack === null) {
      context.console.warn(
        'the EK certificate does not name the key at 0x81010001: if template L-1 does not give it either, the ' +
          'registration id will be another one; iotdm tpm check tells',
      );
    }
    if (plan.lockoutAuthUnused) {
      context.console.warn('a lockout authorization value was given, but none is set: it is not used');
    }
    if (context.settings.dryRun) return { cleared: false, ...result, dryRun: true };
    // With --yes nobody reads it before it is done, and the result says it.
    if (!context.settings.yes)
      for (const line of losses(result)) context.console.note(`will be lost: ${line}`);
    await context.confirm(`Clear the TPM at ${tpm.name} for good? ${summary(plan)} will be lost`);
    await clearAndForget({ tpm, recovery }, plan);
    return { cleared: true, ...result };
  },
  describe(result) {
    const lines = losses(result).map((line) => `  ${line}\n`);
    if (result.dryRun === true) {
      return lines.length === 0
        ? 'Nothing would be lost but the storage seed.\n'
        : `Would be lost:\n${lines.join('')}`;
    }
    return (
      `The TPM is cleared.\n${lines.length === 0 ? '' : `Lost:\n${lines.join('')}`}` +
      'To have the endorsement key at 0x81010001 again: iotdm ek read --persist\n'
    );
  },
};

/** Clears the TPM, and forgets what was interrupted on it. @throws as `clearTpm` does */
export async function clearAndForget({ tpm, recovery }: Slots, plan: ClearPlan): Promise<void> {
  const { clearTpm } = await import('../../src/station/tpm-clear.ts');
  const parent = await tpm.readPublic(SRK_HANDLE);
  await clearTpm(tpm, plan);
  // With its storage seed the TPM has lost every key that such a record could hold.
  if (parent !== undefined) recovery.removeAll(parent.name);
}

function losses({ slots, persistentHandles, nvIndexes }: Omit<TpmClearResult, 'cleared'>): string[] {
  const known: Readonly<Record<string, string>> = {
    '0x81010001': ' (the endorsement key: its seed stays)',
    '0x81000001': ' (the storage root key)',
  };
  return [
    ...slots.map(({ slot, uri, state, remark }) => `slot ${slot}: ${uri ?? `${state}, ${remark ?? ''}`}`),
    ...persistentHandles.map((handle) => `key ${handle}${known[handle] ?? ''}`),
    ...nvIndexes.map((index) => `NV index ${index}`),
  ];
}

function summary({ slots, persistentHandles, nvIndexes }: ClearPlan): string {
  const count = (number: number, one: string, many: string): string =>
    `${number} ${number === 1 ? one : many}`;
  return [
    count(slots.length, 'slot', 'slots'),
    count(persistentHandles.length, 'other key', 'other keys'),
    count(nvIndexes.length, 'other NV index', 'other NV indexes'),
  ].join(', ');
}
