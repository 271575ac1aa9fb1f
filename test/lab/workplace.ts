/** A place on a production line for tests: a directory in which `iotdm provision` needs nothing but a serial number. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Tpm } from '../../src/tpm/tpm.ts';
import {
  iotdm,
  scratchDirectory,
  startIotdm,
  type EmulatedService,
  type Lifetime,
  type Outcome,
  type RunningIotdm,
  type RunOptions,
} from './lab.ts';

export interface Workplace {
  readonly dir: string;
  readonly manifest: string;
  readonly record: string;
  path(name: string): string;
  /** Changes settings in iotdm.config.json; undefined removes one. */
  configure(settings: Readonly<Record<string, unknown>>): void;
  provision(args: readonly string[], options?: RunOptions): Promise<Outcome>;
  startProvision(args: readonly string[], options?: RunOptions): RunningIotdm;
  /** Lines of a file of NDJSON; none where there is no file. */
  lines(file: string): Record<string, unknown>[];
}

export async function workplace(
  lifetime: Lifetime,
  service: EmulatedService,
  tcti: string | undefined,
  settings: Readonly<Record<string, unknown>> = {},
): Promise<Workplace> {
  const dir = await scratchDirectory(lifetime);
  const path = (name: string): string => join(dir, name);
  let current: Readonly<Record<string, unknown>> = {
    ...(tcti === undefined ? {} : { tpm: tcti }),
    dpsConnectionStringFile: service.connectionStringFile,
    ca: service.ca,
    idScope: service.idScope,
    deviceHost: service.deviceHost,
    hubHost: service.hubHost,
    manifest: 'shift.ndjson',
    stateDir: 'state',
  };
  const configure = (changes: Readonly<Record<string, unknown>>): void => {
    current = { ...current, ...changes };
    writeFileSync(path('iotdm.config.json'), JSON.stringify(current));
  };
  configure(settings);
  return {
    dir,
    manifest: path('shift.ndjson'),
    record: path('shift.ndjson.provisioned'),
    path,
    configure,
    provision: (args, options) => iotdm(['provision', ...args], { cwd: dir, ...options }),
    startProvision: (args, options) => startIotdm(['provision', ...args], { cwd: dir, ...options }),
    lines: (file) => {
      let text: string;
      try {
        text = readFileSync(file, 'utf8');
      } catch {
        return [];
      }
      return text
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    },
  };
}

/** What a TPM keeps: a change to anything in it shows here. */
export async function contentsOf(tpm: Tpm): Promise<string> {
  const persistent = await tpm.handles(0x81000000, 64);
  const indexes = await tpm.handles(0x01000000, 64);
  const keys: unknown[] = [];
  for (const handle of persistent) keys.push([handle, (await tpm.readPublic(handle))?.name.toString('hex')]);
  const areas: unknown[] = [];
  for (const index of indexes) {
    const area = await tpm.nvReadPublic(index);
    areas.push([index, area?.name.toString('hex')]);
  }
  return JSON.stringify([keys, areas]);
}
