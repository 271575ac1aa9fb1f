import { Option } from 'commander';
import { deviceIdProblem } from '../src/dps/enrollment.ts';
import { IotdmError } from '../src/errors.ts';
import { registrationIdOf } from '../src/tpm/endorsement-key.ts';
import type { HarvestLabels, HarvestOptions as HarvestJob } from '../src/station/harvest.ts';
import type { Context } from './shared/context.ts';
import type { CsvFileOptions } from './shared/csv-options.ts';
import { batchOptions, describeBatch, harvestBatch, type BatchResult } from './shared/harvest-batch.ts';
import { CommandError } from './shared/failure.ts';
import { trustPolicies, variableNote, type LineSettings, type TrustPolicy } from './shared/line-settings.ts';
import { enforce, readRoots, rootsOption } from './shared/trust.ts';
import { table, type Verb } from './shared/verb.ts';

export interface HarvestOptions extends CsvFileOptions {
  readonly manifest?: string;
  readonly serial?: string;
  readonly deviceId?: string;
  readonly station?: string;
  readonly operator?: string;
  readonly lot?: string;
  readonly tag?: readonly string[];
  readonly targets?: string;
  readonly concurrency: string;
  readonly verify?: TrustPolicy;
  readonly roots?: readonly string[];
}

export interface HarvestResult {
  readonly registrationId: string;
  readonly serialNumber: string | null;
  /** The manifest had this device already: nothing was written. */
  readonly repeated: boolean;
  readonly manifest: string;
  /** Of the record in the manifest; null on a dry run. */
  readonly line: number | null;
  readonly record: object;
  readonly dryRun?: true;
}

export const harvestVerb: Verb<[], HarvestOptions, HarvestResult | BatchResult> = {
  name: 'harvest',
  summary: 'record the identity of a device in a manifest',
  description:
    'Reads the endorsement key of a device and appends one record to a manifest (NDJSON), flushed to disk before ' +
    'success is reported. Changes nothing in the TPM. The same device again changes nothing in the manifest either; ' +
    'the same chip under another serial number, or the same serial number with another chip, is refused. With ' +
    '--verify the record also holds the verdict on the EK certificate; require records genuine TPMs only.\n\n' +
    'With --targets many devices are harvested from one station: a CSV file with the columns tpm (as --tpm takes it) ' +
    'and serialNumber, and any of deviceId, station, operator, lot and tags.NAME. All rows are checked before the first ' +
    'TPM is touched; a device that fails costs no other, and the same command again does what is left. A target ' +
    '"cmd:…" runs that command on this machine, so let nobody else write the file.',
  examples: [
    'iotdm harvest --manifest shift.ndjson --serial SN-0001',
    'iotdm harvest --manifest shift.ndjson --serial SN-0001 --station EOL-3 --lot 2026-W48 --tag board=rev-c',
    'iotdm harvest --manifest shift.ndjson --serial SN-0001 --verify require --roots /etc/iotdm/tpm-vendors',
    'iotdm harvest --manifest shift.ndjson --targets rack.csv --timeout 60',
  ],
  seeAlso: ['iotdm manifest verify', 'iotdm enrollment import', 'iotdm enrollment export', 'iotdm ek verify'],
  settings: ['tpm', 'timeout', 'dry-run'],
  options: [
    new Option('--manifest <file>', `the manifest, made where there is none${variableNote('manifest')}`),
    new Option('--serial <number>', 'serial number of the device'),
    new Option('--device-id <id>', 'device id it is to have in IoT Hub (default: the registration id)'),
    new Option('--station <name>', `the station that harvests${variableNote('station')}`),
    new Option('--operator <name>', `who operates it${variableNote('operator')}`),
    new Option('--lot <name>', `production lot${variableNote('lot')}`),
    new Option('--tag <key=value>', 'more to record, any number of times').argParser(
      (value: string, before: readonly string[] | undefined) => [...(before ?? []), value],
    ),
    ...batchOptions(),
    new Option(
      '--verify <policy>',
      'verify the EK certificate: refuse what is not genuine, warn, or do not look',
    )
      .choices(trustPolicies)
      .default(undefined, 'off'),
    rootsOption(),
  ],
  async run(context, _args, options) {
    const labels = toLabels({ ...context.settings.line, ...options });
    const manifest = manifestOf(context, options);
    const verification = await certificateJudge(context, options);
    const { targets } = options;
    if (targets !== undefined) {
      return harvestBatch(context, { ...options, manifest, targets }, labels, verification);
    }
    const { harvest, readIdentity } = await import('../src/station/harvest.ts');
    const tpm = await context.openTpm();
    const progress = await context.console.progress(
      'Reading the endorsement key; deriving it takes a chip a while',
    );
    try {
      const job = { tpm, labels, now: context.host.clock(), tool: context.host.tool, ...verification };
      if (context.settings.dryRun) {
        const record = await readIdentity(job);
        const { registrationId, serialNumber } = record;
        const shown = {
          registrationId,
          serialNumber,
          repeated: false,
          manifest,
          line: null,
        };
        return { ...shown, record, dryRun: true };
      }
      const { repeated, repaired, record, line } = await harvest(manifest, job);
      if (repaired) context.console.warn(`the last line of ${manifest} was cut short and has been mended`);
      const { registrationId, serialNumber } = record;
      return { registrationId, serialNumber, repeated, manifest, line, record };
    } finally {
      progress.done();
    }
  },
  describe(result, context) {
    if ('total' in result) return describeBatch(result, context);
    const { registrationId, serialNumber, repeated, manifest, line, dryRun } = result;
    const { style } = context.console;
    const rows = table([
      ['Registration id', registrationId],
      ['Serial number', serialNumber ?? '-'],
      ['Manifest', line === null ? manifest : `${manifest}, line ${line}`],
    ]);
    if (dryRun === true) return `Would record:\n${rows}`;
    if (repeated) return `${style.green('✔')} Recorded earlier; nothing to do.\n${rows}`;
    return `${style.green('✔')} Recorded.\n${rows}`;
  },
};

function manifestOf(context: Context, { manifest = context.settings.line.manifest }: HarvestOptions): string {
  if (manifest !== undefined) return manifest;
  throw new CommandError(
    'usage.invalid',
    'no manifest was named',
    'pass --manifest FILE, or put "manifest" into iotdm.config.json',
  );
}

/** What `--verify` asks for; nothing where it is off. */
async function certificateJudge(
  context: Context,
  { verify = context.settings.line.verify ?? 'off', roots }: HarvestOptions,
): Promise<Pick<HarvestJob, 'judge'>> {
  if (verify === 'off') return {};
  const trusted = await readRoots(context, roots);
  const { assessForKey } = await import('../src/station/endorsement.ts');
  return {
    judge: (key, certificate) => {
      const assessment = assessForKey(key, certificate, { trusted, now: context.host.clock() });
      enforce(assessment, verify, context, `the EK of ${registrationIdOf(key.publicArea)}`);
      return assessment.verdict;
    },
  };
}

function toLabels({
  serial,
  deviceId,
  station,
  operator,
  lot,
  tag,
  tags = {},
}: HarvestOptions & Pick<LineSettings, 'tags'>): HarvestLabels {
  const problem = deviceId === undefined ? undefined : deviceIdProblem(deviceId);
  if (problem !== undefined) throw new IotdmError('usage.invalid', `--device-id: ${problem}`);
  return {
    serialNumber: named('--serial', serial),
    deviceId: deviceId ?? null,
    station: named('--station', station),
    operator: named('--operator', operator),
    lot: named('--lot', lot),
    tags: tag === undefined ? tags : Object.fromEntries(tag.map(parseTag)),
  };
}

/** A barcode scanner may add blanks or send nothing: an empty serial number is no serial number. */
function named(flag: string, value: string | undefined): string | null {
  const text = value?.trim();
  if (text === undefined) return null;
  if (text === '' || text.length > 256 || /\p{Cc}/u.test(text)) {
    throw new IotdmError('usage.invalid', `${flag} takes 1 to 256 printable characters`);
  }
  return text;
}

function parseTag(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new IotdmError('usage.invalid', `--tag takes KEY=VALUE, not "${text}"`);
  return [text.slice(0, at), text.slice(at + 1)];
}
