/** What is to be done with every device: flags, else the environment, else the settings file, checked before any of it. */
import { Option } from 'commander';
import { deviceIdProblem } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import { moduleSlotsProblem, parseModuleSlot, type ModuleSlot } from '../../src/station/agent-config.ts';
import { MAX_SERIAL_CHARACTERS } from '../../src/station/provision/barcode.ts';
import type { StepName } from '../../src/station/provision/steps.ts';
import type { TargetDefaults } from '../../src/station/harvest-targets.ts';
import { hubHostOption } from '../shared/hub.ts';
import type { Context } from '../shared/context.ts';
import { csvOptions, type CsvFileOptions } from '../shared/csv-options.ts';
import { CommandError } from '../shared/failure.ts';
import { parseSteps, trustPolicies, variableNote, type TrustPolicy } from '../shared/line-settings.ts';
import { registrationOptions, type RegistrationSettings } from '../shared/registration.ts';
import { rootsOption } from '../shared/trust.ts';

export interface ProvisionOptions extends RegistrationSettings, CsvFileOptions {
  readonly serial?: string;
  readonly loop?: boolean;
  readonly targets?: string;
  readonly concurrency?: string;
  readonly manifest?: string;
  readonly record?: string;
  readonly deviceId?: string;
  readonly slot?: string;
  readonly module?: readonly string[];
  readonly overwrite?: boolean;
  readonly station?: string;
  readonly operator?: string;
  readonly lot?: string;
  readonly tag?: readonly string[];
  readonly tags?: readonly string[];
  readonly verify?: TrustPolicy;
  readonly roots?: readonly string[];
  readonly hubHost?: string;
  readonly skip?: readonly string[];
  readonly budget?: string;
}

/** What holds for every device. */
export interface ProvisionPlan {
  readonly labels: TargetDefaults;
  readonly deviceId: string | null;
  readonly slot: number;
  readonly modules: readonly ModuleSlot[];
  readonly overwrite: boolean;
  readonly skip: ReadonlySet<StepName>;
  readonly verify: TrustPolicy;
  readonly roots: readonly string[] | undefined;
  readonly manifest: string | undefined;
  readonly record: string | undefined;
  readonly hubHost: string | undefined;
  readonly budgetSeconds: number | undefined;
  readonly concurrency: number;
}

const LONGEST_BUDGET_S = 86_400;
const MAX_CONCURRENCY = 64;
const DEFAULT_CONCURRENCY = 8;

const collect = (value: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  value,
];

export function provisionOptions(): Option[] {
  return [
    new Option('--serial <number>', 'serial number of the device; - reads the line of a barcode scanner'),
    new Option('--loop', 'one device after the other, as their barcodes are scanned').conflicts('targets'),
    new Option('--targets <file>', 'CSV of many devices, one TPM a row (- reads stdin)').conflicts([
      'serial',
      'deviceId',
      'registrationId',
    ]),
    new Option(
      '--concurrency <n>',
      `with --targets: devices under way at once (default: ${DEFAULT_CONCURRENCY})`,
    ),
    ...csvOptions('with --targets: '),
    new Option(
      '--manifest <file>',
      `the manifest of harvest, made where there is none${variableNote('manifest')}`,
    ),
    new Option(
      '--record <file>',
      `what came of each device, NDJSON (default: the manifest's name and .provisioned)${variableNote('record')}`,
    ),
    new Option('--device-id <id>', 'device id it is to have in IoT Hub (default: the registration id)'),
    new Option('--slot <n>', "slot for the device's identity (default: 0, which Azure's SDKs use)"),
    new Option('--module <id=slot>', 'a module and the slot for it, any number of times').argParser(collect),
    new Option('--overwrite', 'replace the identities that the slots hold, whatever they are'),
    ...registrationOptions(),
    new Option('--station <name>', `the station that provisions${variableNote('station')}`),
    new Option('--operator <name>', `who operates it${variableNote('operator')}`),
    new Option('--lot <name>', `production lot${variableNote('lot')}`),
    new Option('--tag <key=value>', 'more to record, any number of times').argParser(collect),
    new Option('--tags <key=value,…>', 'the same').hideHelp().argParser(collect),
    new Option(
      '--verify <policy>',
      'verify the EK certificate: refuse what is not genuine, warn, or do not look (default: off)',
    ).choices(trustPolicies),
    rootsOption(),
    hubHostOption(),
    new Option(
      '--skip <steps>',
      'leave steps out, such as check,prove; any number of times: check, harvest, enroll, register, modules, prove, record',
    ).argParser(collect),
    new Option('--budget <seconds>', 'how long one device may take, all steps together'),
  ];
}

/** @throws IotdmError `usage.*`; nothing is touched */
export function provisionPlan(context: Context, options: ProvisionOptions): ProvisionPlan {
  const { line } = context.settings;
  const skip = new Set(options.skip === undefined ? (line.skip ?? []) : parseSteps(options.skip));
  const slot = options.slot === undefined ? (line.slot ?? 0) : parseSlotNumber(options.slot);
  const modules =
    options.module === undefined
      ? Object.entries(line.modules ?? {}).map(([id, at]) => moduleOf(`${id}=${at}`))
      : options.module.map(moduleOf);
  const problem = moduleSlotsProblem(modules, slot);
  if (problem !== undefined) throw new IotdmError('usage.invalid', problem);
  const manifest = options.manifest ?? line.manifest;
  if (manifest === undefined && !skip.has('harvest')) {
    throw new CommandError(
      'usage.invalid',
      'no manifest was named',
      'pass --manifest FILE, or put "manifest" into iotdm.config.json; to go without: --skip harvest',
    );
  }
  const verify = options.verify ?? line.verify ?? 'off';
  if (verify !== 'off' && skip.has('harvest')) {
    throw new CommandError(
      'usage.invalid',
      'the EK certificate is verified while harvesting, which is left out',
      'leave out --skip harvest, or pass --verify off',
    );
  }
  const { deviceId = null } = options;
  const idProblem = deviceId === null ? undefined : deviceIdProblem(deviceId);
  if (idProblem !== undefined) throw new IotdmError('usage.invalid', `--device-id: ${idProblem}`);
  const budget = options.budget ?? line.budget;
  const concurrency = options.concurrency ?? line.concurrency ?? DEFAULT_CONCURRENCY;
  return {
    labels: {
      station: label('station', options.station ?? line.station),
      operator: label('operator', options.operator ?? line.operator),
      lot: label('lot', options.lot ?? line.lot),
      tags: tagsOf(options) ?? line.tags ?? {},
    },
    deviceId,
    slot,
    modules,
    overwrite: options.overwrite === true,
    skip,
    verify,
    roots: options.roots,
    manifest,
    record: options.record ?? line.record ?? (manifest === undefined ? undefined : `${manifest}.provisioned`),
    hubHost: options.hubHost,
    budgetSeconds: budget === undefined ? undefined : parseBudget(String(budget)),
    concurrency: parseConcurrency(String(concurrency)),
  };
}

function moduleOf(text: string): ModuleSlot {
  const module = parseModuleSlot(text);
  if (module !== undefined) return module;
  throw new CommandError(
    'usage.invalid',
    `"${text}" is no module with a slot`,
    'expected ID=SLOT with a slot from 0 to 9, such as --module AppB=2',
  );
}

function label(what: string, value: string | undefined): string | null {
  const text = value?.trim();
  if (text === undefined) return null;
  if (text !== '' && text.length <= MAX_SERIAL_CHARACTERS && !/\p{Cc}/u.test(text)) return text;
  throw new IotdmError('usage.invalid', `--${what} takes 1 to ${MAX_SERIAL_CHARACTERS} printable characters`);
}

function tagsOf({ tag = [], tags = [] }: ProvisionOptions): Readonly<Record<string, string>> | undefined {
  const texts = [...tag, ...tags.flatMap((list) => list.split(','))];
  if (texts.length === 0) return undefined;
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=');
      if (at < 1) throw new IotdmError('usage.invalid', `--tag takes KEY=VALUE, not "${text}"`);
      return [text.slice(0, at), text.slice(at + 1)] as const;
    }),
  );
}

function parseBudget(text: string): number {
  const seconds = Number(text);
  if (Number.isFinite(seconds) && seconds > 0 && seconds <= LONGEST_BUDGET_S) return seconds;
  throw new IotdmError('usage.invalid', `"${text}" is not a budget: expected seconds, such as 60`);
}

function parseConcurrency(text: string): number {
  const number = Number(text);
  if (/^[0-9]+$/.test(text) && number >= 1 && number <= MAX_CONCURRENCY) return number;
  throw new IotdmError('usage.invalid', `--concurrency takes a number from 1 to ${MAX_CONCURRENCY}`);
}
