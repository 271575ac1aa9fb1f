/** What the commands that register a device share: options, the job, and what happens meanwhile. */
import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import type { TwinObject } from '../../src/dps/enrollment.ts';
import { describeClock } from '../../src/http-clock.ts';
import type {
  RegistrationJob,
  RegistrationOutcome,
  RegistrationPreview,
} from '../../src/station/registration.ts';
import type { Context } from './context.ts';
import { CommandError } from './failure.ts';
import { table } from './verb.ts';

export interface RegistrationSettings {
  readonly registrationId?: string;
  readonly payload?: string;
  readonly deadline?: string;
}

/** Where to register, as something other than the shared options says. */
export interface RegistrationPlace {
  readonly idScope?: string;
  readonly deviceHost?: string;
}

/** More than a custom allocation takes in. */
const PAYLOAD_LIMIT_BYTES = 65_536;

const LONGEST_DEADLINE_S = 86_400;

export function registrationOptions(): Option[] {
  return [
    new Option(
      '--registration-id <id>',
      'where the enrollment has an id of its own (default: that of the EK)',
    ),
    new Option(
      '--payload <file-or-json>',
      'JSON object for the custom allocation of the service (- reads stdin)',
    ),
    new Option('--deadline <seconds>', 'how long the device may wait to be assigned (default: 300)'),
  ];
}

/**
 * The checks that need neither TPM nor network.
 * @param place where to register when the shared options do not say
 * @param told where to register whatever the shared options say
 */
export async function registrationPlan(
  context: Context,
  options: RegistrationSettings,
  place: RegistrationPlace = {},
  told: RegistrationPlace = {},
): Promise<RegistrationJob['dps']> {
  const [
    { DEFAULT_DEVICE_HOST, idScopeProblem },
    { registrationIdProblem },
    { parseServiceHost },
    { globalHostOf, otherCloudOfScope },
  ] = await Promise.all([
    import('../../src/dps/registration.ts'),
    import('../../src/dps/enrollment.ts'),
    import('../../src/dps/service-host.ts'),
    import('../../src/dps/clouds.ts'),
  ]);
  const idScope = told.idScope ?? context.settings.idScope ?? place.idScope;
  const host = told.deviceHost ?? context.settings.deviceHost ?? place.deviceHost ?? DEFAULT_DEVICE_HOST;
  const registrationId = options.registrationId?.toLowerCase();
  if (idScope === undefined) {
    throw new CommandError(
      'usage.invalid',
      'no ID scope was given',
      'pass --id-scope SCOPE or set IOTDM_ID_SCOPE; the portal shows it in the overview of the Device Provisioning Service',
    );
  }
  const problem =
    idScopeProblem(idScope) ??
    (registrationId === undefined ? undefined : registrationIdProblem(registrationId));
  if (problem !== undefined) throw new IotdmError('usage.invalid', problem);
  const cloud = otherCloudOfScope(idScope, parseServiceHost(host).hostname);
  if (cloud !== undefined) {
    context.console.warn(
      `the ID scope ${idScope} is one of ${cloud.name}, and devices register at ${host}: pass --device-host ${globalHostOf(cloud)} (or set IOTDM_DEVICE_HOST)`,
    );
  }
  if (registrationId !== undefined && registrationId !== options.registrationId)
    context.console.note(`the registration id is used in lower case: ${registrationId}`);
  const payload = options.payload === undefined ? undefined : await readPayload(context, options.payload);
  return {
    host,
    idScope,
    ...(registrationId === undefined ? {} : { registrationId }),
    ...(payload === undefined ? {} : { payload }),
    ...(await context.network(host)),
    ...(options.deadline === undefined ? {} : { deadlineMs: parseDeadline(options.deadline) * 1000 }),
    signal: context.host.signal,
  };
}

/** A dry run gives the preview. */
export type RegistrationResult = RegistrationOutcome | (RegistrationPreview & { readonly dryRun: true });

/** Carries a registration out, and shows how it goes; a dry run says what it would come to. */
export async function register(
  context: Context,
  job: Omit<RegistrationJob, 'records' | 'now' | 'onEvent'>,
): Promise<RegistrationResult> {
  const [{ previewRegistration, registerDevice }, { RegistrationRecords }] = await Promise.all([
    import('../../src/station/registration.ts'),
    import('../../src/station/registration-records.ts'),
  ]);
  const { console } = context;
  const progress = await console.progress('Registering; a chip takes a while');
  const records = new RegistrationRecords(context.stateDirectory);
  try {
    if (context.settings.dryRun) return { ...(await previewRegistration({ ...job, records })), dryRun: true };
    return await registerDevice({
      ...job,
      records,
      now: context.host.clock,
      onEvent: (event) => {
        switch (event.kind) {
          case 'challenged':
            progress.update('The TPM proves itself');
            break;
          case 'assigning':
            progress.update('DPS is assigning the device to a hub');
            break;
          case 'repeating':
            progress.update(`The service is busy; asking again in ${Math.ceil(event.waitMs / 1000)} s`);
            console.detail(`asking again in ${event.waitMs} ms: ${event.code}`);
            break;
          case 'clock-off':
            console.warn(
              `the clock of this machine is ${describeClock(event.seconds)}: its tokens may be refused`,
            );
            break;
          case 'assigned':
            console.detail(`assigned to ${event.assignedHub} as ${event.deviceId}`);
            break;
          case 'storing':
            progress.update(`Writing ${event.uri} into slot ${job.slot}`);
        }
      },
    });
  } finally {
    progress.done();
  }
}

async function readPayload(context: Context, given: string): Promise<TwinObject> {
  const isInline = given.trimStart().startsWith('{');
  const text = isInline
    ? given
    : (await context.readInput(given, 'the payload', PAYLOAD_LIMIT_BYTES)).toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch {
    throw payloadError('is not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw payloadError('is not a JSON object');
  }
  return value as TwinObject;
}

function payloadError(problem: string): CommandError {
  return new CommandError(
    'input.invalid',
    `the payload ${problem}`,
    'pass --payload FILE with a JSON object, or the object itself: --payload \'{"site":"ulm"}\'',
  );
}

function parseDeadline(text: string): number {
  const seconds = Number(text);
  if (!Number.isFinite(seconds) || seconds <= 0 || seconds > LONGEST_DEADLINE_S) {
    throw new IotdmError('usage.invalid', `"${text}" is not a deadline: expected seconds, such as 300`);
  }
  return seconds;
}

/** The result for people. */
export function describeRegistration(result: RegistrationResult, { console: { style } }: Context): string {
  const { registrationId, deviceId, assignedHub, slot, substatus, alreadyRegistered } = result;
  const rows = table([
    ['Registration id', registrationId],
    ['Device id', deviceId ?? '-'],
    ['IoT Hub', assignedHub ?? '-'],
    ['Slot', String(slot)],
    ['Substatus', substatus ?? '-'],
  ]);
  if (alreadyRegistered) return `${style.green('✔')} Registered before; nothing to do.\n${rows}`;
  if ('dryRun' in result) {
    return `Would register, and write slot ${slot}${result.replaced ? ', replacing what it holds' : ''}:\n${rows}`;
  }
  const proof =
    result.hubVerified === true ? 'the hub accepts what the TPM signs' : 'the TPM signs with its key';
  return `${style.green('✔')} Registered: slot ${slot} is written and proved, ${proof}.\n${rows}`;
}
