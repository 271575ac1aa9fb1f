/** The parts of a line in the test's own process: real ones, over a transport that the test may cut. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openAzureService } from '../../src/dps/azure-service.ts';
import { parseServiceConnectionString } from '../../src/dps/service-connection-string.ts';
import { parseServiceHost } from '../../src/dps/service-host.ts';
import { lookForMessage } from '../../src/hub/device-hub.ts';
import type { HubOptions } from '../../src/hub/hub-request.ts';
import { readOrCreateModule } from '../../src/hub/module-identities.ts';
import { appendRecord } from '../../src/records/manifest.ts';
import { appendOutcome } from '../../src/records/outcome-log.ts';
import { Secret } from '../../src/secret.ts';
import { RecoveryFiles } from '../../src/slot/recovery-files.ts';
import { Budget } from '../../src/station/provision/budget.ts';
import { saysTheSame } from '../../src/station/provision/provisioning-record.ts';
import type { StepName } from '../../src/station/provision/steps.ts';
import type { DeviceJob, LineParts } from '../../src/station/provision/work.ts';
import { IdentityIndex } from '../../src/station/identity-index.ts';
import { RegistrationRecords } from '../../src/station/registration-records.ts';
import { registerDevice } from '../../src/station/registration.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';
import type { TpmOptions } from '../../src/tpm/tss.ts';

/** Of the emulator. */
export interface ServiceAddress {
  readonly deviceHost: string;
  readonly hubHost: string;
  readonly idScope: string;
  readonly connectionStringFile: string;
  readonly ca: string;
}

export interface TestLineOptions {
  /** For the manifest, the record and the state. */
  readonly dir: string;
  readonly service: ServiceAddress;
  readonly transport: () => Promise<TpmTransport>;
  readonly tpmOptions?: TpmOptions;
  /** Called for each request, when its outcome is known, with its milliseconds. */
  readonly onRequest?: (elapsedMs: number) => void;
}

/** @returns what `provisionDevice` works with; ends its connections when `close` is called */
export function testLine(options: TestLineOptions): LineParts & { close(): void } {
  const { dir, service, transport, tpmOptions } = options;
  const ca = readFileSync(service.ca, 'utf8');
  const records = new RegistrationRecords(join(dir, 'state'));
  const network = {
    ca,
    timeoutMs: 5000,
    onRequest: ({ elapsedMs }: { readonly elapsedMs: number }) => options.onRequest?.(elapsedMs),
  };
  let index: Promise<IdentityIndex> | undefined;
  const hub: HubOptions = { ...parseServiceHost(service.hubHost), ...network, userAgent: 'test' };
  const connectionString = Secret.fromText(readFileSync(service.connectionStringFile, 'utf8'));
  const dps = openAzureService({
    credentials: parseServiceConnectionString(connectionString),
    ...network,
    userAgent: 'test',
  });
  return {
    openTpm: async () => {
      const tpm = new Tpm(await transport(), tpmOptions);
      return { tpm, recovery: new RecoveryFiles(join(dir, 'state')), close: () => tpm.close() };
    },
    harvested: (identity) => appendRecord(join(dir, 'manifest'), identity),
    service: () => Promise.resolve(dps),
    index: async () => {
      index ??= IdentityIndex.open(
        {
          stateDirectory: join(dir, 'state'),
          host: dps.host,
          maxAgeMs: 3_600_000,
          now: Date.now,
          signal: new AbortController().signal,
        },
        { pages: () => dps.list(), find: (id) => dps.find(id) },
      );
      const opened = await index;
      await opened.prepare();
      return opened;
    },
    registration: {
      idScope: service.idScope,
      register: ({ leftMs, registrationId, ...job }) =>
        registerDevice({
          ...job,
          records,
          dps: {
            host: service.deviceHost,
            idScope: service.idScope,
            ...network,
            deadlineMs: Math.min(leftMs, 20_000),
            ...(registrationId === undefined ? {} : { registrationId }),
          },
          now: () => new Date(),
        }),
    },
    records,
    modules: () =>
      Promise.resolve({
        moduleIdentity: (device, moduleId, token) =>
          readOrCreateModule(hub, device.deviceId, moduleId, token),
      }),
    askHub: async (identity, token) => {
      await lookForMessage(hub, identity, token);
    },
    record: (entry) =>
      appendOutcome(join(dir, 'record'), {
        entry,
        subject: entry.registrationId ?? '',
        isNeedless: (last) => saysTheSame(last, entry),
      }),
    now: () => new Date(),
    tool: 'test',
    close: () => {
      void index?.then((opened) => opened.close());
      dps.close();
    },
  };
}

export function testJob(job: Partial<DeviceJob> = {}): DeviceJob {
  return {
    labels: { serialNumber: 'SN-1', deviceId: null, station: null, operator: null, lot: null, tags: {} },
    slot: 0,
    modules: [{ moduleId: 'AppB', slot: 2 }],
    overwrite: false,
    dryRun: false,
    skip: new Set<StepName>(),
    budget: new Budget(),
    ...job,
  };
}

/**
 * A connection that breaks at its k-th command, counted from 1.
 * @param isDone the TPM has carried that command out, and only its answer is lost
 */
export function breaking(inner: TpmTransport, at: number, isDone: boolean, lost: () => Error): TpmTransport {
  let sent = 0;
  return {
    name: inner.name,
    send: async (command) => {
      sent += 1;
      if (sent < at) return inner.send(command);
      if (sent === at && isDone) await inner.send(command);
      throw lost();
    },
    close: () => inner.close(),
  };
}
