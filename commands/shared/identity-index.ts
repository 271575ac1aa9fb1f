/** The comparison with all other enrollments, as the commands use it: opened on demand, with progress, closed at the end. */
import { IotdmError } from '../../src/errors.ts';
import type { ProvisioningService } from '../../src/dps/service.ts';
import type { IdentityIndex, IdentitySource, IndexOptions } from '../../src/station/identity-index.ts';
import type { Console, Progress } from './console.ts';
import type { Context } from './context.ts';

/**
 * Whether device ids and keys were compared with those of all other enrollments; null where nothing was to be compared.
 */
export interface Compared {
  readonly identityCompared: boolean | null;
}

/** What `enrollment create`, `update`, `import` and `provision` say of it in their help. */
export const indexNotes =
  'No device id (in one hub, or in any where the hub is not named) and no endorsement key is given to an enrollment while\n' +
  'another one has it: that is a conflict, which names both, also with --dry-run. The service has no query for it, so all\n' +
  'enrollments are read, a thousand a request, into an index in the state directory, and again when it is older than\n' +
  '--index-age; what iotdm writes with the same state directory counts at once. The default of an hour costs a service of\n' +
  'a million enrollments 1000 requests an hour, of the 60,000 that it allows. What remains possible: two machines, each\n' +
  'with a state directory of its own, or another tool, that give one device id to two enrollments within that time. The\n' +
  'devices of enrollment groups are not compared. --no-index leaves the comparison out, and the result says so.';

/** Of a result for people. */
export const notCompared =
  'Device ids and keys were not compared with those of the other enrollments (--no-index).\n';

/** As many as any service allows; what it refuses beside that is waited for. */
const READS_PER_MINUTE = 1000;
const LINE_MS = 60_000;

/**
 * Runs a task with the index of the service, and ends it in order.
 * @returns what the task does; its index is undefined with --no-index where there is none that is to be told
 */
export async function withIdentityIndex<T>(
  context: Context,
  service: ProvisioningService,
  task: (index: IdentityIndex | undefined) => Promise<T>,
): Promise<T> {
  const index = await openIdentityIndex(context, service);
  try {
    return await task(index);
  } finally {
    await index?.close();
  }
}

/**
 * Runs the deletion of an enrollment, after which what it had is free. An index that cannot be told costs whoever comes
 * next a request, and is no reason not to delete.
 */
export async function whileForgetting(
  context: Context,
  service: ProvisioningService,
  registrationId: string,
  remove: () => Promise<void>,
): Promise<void> {
  const index = await openToTell(context, service);
  try {
    const position = index?.position ?? 0;
    await remove();
    index?.forget(registrationId, position);
  } finally {
    await index?.close();
  }
}

/** For whoever closes it. @returns undefined with --no-index where there is none that is to be told */
export async function openIdentityIndex(
  context: Context,
  service: ProvisioningService,
): Promise<IdentityIndex | undefined> {
  if (!context.settings.index) return openToTell(context, service);
  const [{ IdentityIndex }, source] = await Promise.all([
    import('../../src/station/identity-index.ts'),
    pacedSource(context, service),
  ]);
  return IdentityIndex.open(indexOptions(context, service.host), source);
}

/** An index that is told of what is written, and asked nothing; undefined where there is none. */
export async function openToTell(
  context: Context,
  service: Pick<ProvisioningService, 'host'>,
): Promise<IdentityIndex | undefined> {
  const { hasIndex, IdentityIndex } = await import('../../src/station/identity-index.ts');
  if (!hasIndex(context.stateDirectory, service.host)) return undefined;
  const options = { ...indexOptions(context, service.host), tellsOnly: true };
  const asked = (): never => {
    throw new IotdmError('internal.unexpected', 'an index that is only told things has asked');
  };
  try {
    return await IdentityIndex.open(options, { pages: asked, find: asked });
  } catch (error) {
    if (!(error instanceof IotdmError)) throw error;
    context.console.detail(error.message);
    return undefined;
  }
}

export function indexOptions(context: Context, host: string): IndexOptions {
  return {
    stateDirectory: context.stateDirectory,
    host,
    maxAgeMs: context.settings.indexAge * 1000,
    now: () => context.host.clock().getTime(),
    signal: context.host.signal,
    onWait: (pid) => {
      context.console.note(`waiting for another iotdm that reads the enrollments (process ${pid})`);
    },
  };
}

async function pacedSource(context: Context, service: ProvisioningService): Promise<IdentitySource> {
  const [{ Requests }, { Governor }] = await Promise.all([
    import('../../src/station/import-requests.ts'),
    import('../../src/dps/governor.ts'),
  ]);
  const requests = new Requests({
    service,
    governor: new Governor({ ratePerMinute: READS_PER_MINUTE }),
    concurrency: 1,
    bulkCost: 'request',
    giveUpAfterMs: 0,
    signal: context.host.signal,
  });
  return { pages: () => requests.pages(), find: (registrationId) => service.find(registrationId) };
}

/**
 * Has the index read what it has to, and shows how far it is.
 * @param line of progress that is shown already
 * @throws as `IdentityIndex.prepare`
 */
export async function prepareIndex(
  context: Context,
  index: IdentityIndex,
  host: string,
  line?: Pick<Progress, 'update'>,
): Promise<void> {
  const reading = new ReadingReport(context.console, host, line);
  try {
    await index.prepare({ onReading: (count) => reading.update(count) });
  } finally {
    reading.done();
  }
}

/** How far the reading of the enrollments is: a line that changes at a terminal, elsewhere one line a minute. */
class ReadingReport {
  readonly #console: Console;
  readonly #host: string;
  readonly #line: Pick<Progress, 'update'> | undefined;
  #progress: Progress | undefined;
  #toldAt = performance.now();

  constructor(console: Console, host: string, line?: Pick<Progress, 'update'>) {
    this.#console = console;
    this.#host = host;
    this.#line = line;
  }

  async update(count: number): Promise<void> {
    const text = readingText(this.#host, count);
    if (this.#console.drawsProgress) {
      if (this.#line === undefined) this.#progress ??= await this.#console.progress(text);
      (this.#line ?? this.#progress)?.update(text);
    } else if (performance.now() - this.#toldAt >= LINE_MS) {
      this.#toldAt = performance.now();
      this.#console.note(text);
    }
  }

  done(): void {
    this.#progress?.done();
  }
}

export function readingText(host: string, count: number): string {
  return `reading the enrollments of ${host}, to compare device ids and keys: ${count} so far`;
}
