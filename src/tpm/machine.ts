/** The TPMs that this machine offers: found in /dev and /sys, among the settings, and by asking each who it is. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { IotdmError, systemErrorCode } from '../errors.ts';
import { describeTpm, type TpmDescription } from './description.ts';
import { openTransport } from './open.ts';
import { parseTcti } from './tcti.ts';
import { Tpm } from './tpm.ts';
import type { TpmTransport } from './transport.ts';

/** What the search touches; a test puts a fake tree here. */
export interface SearchedMachine {
  readonly platform: string;
  /** Names in a directory; none where it is not there. */
  names(directory: string): Promise<readonly string[]>;
  /** A small file, or undefined where it cannot be read. */
  text(file: string): Promise<string | undefined>;
  /** @throws IotdmError `tpm-unavailable.*`, `usage.*` for a TCTI that names no TPM */
  open(tcti: string): Promise<TpmTransport>;
}

/** @param timeoutMs time limit of one command: a TPM that another program keeps busy must not hold up the list */
export function thisMachine(timeoutMs: number): SearchedMachine {
  return {
    platform: process.platform,
    names: (directory) => orWhenMissing(readdir(directory), []),
    text: (file) => orWhenMissing(readFile(file, 'utf8'), undefined),
    open: async (tcti) => openTransport(parseTcti(tcti), timeoutMs),
  };
}

async function orWhenMissing<T, D>(read: Promise<T>, otherwise: D): Promise<T | D> {
  try {
    return await read;
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    return otherwise;
  }
}

/** A TPM that something other than the machine itself names. */
export interface NamedTpm {
  readonly tcti: string;
  /** Where the name comes from, such as `IOTDM_TPM`. */
  readonly source: string;
}

export interface OfferedTpm {
  /** The value for `--tpm`. */
  readonly tcti: string;
  readonly source: string;
  /** Undefined for one that is not usable. */
  readonly description?: TpmDescription;
  /** Why it is not usable. */
  readonly error?: IotdmError;
  /** Usable, but the kernel keeps no programs apart on it. */
  readonly withoutResourceManager: boolean;
}

/**
 * Named ones first, then the machine's own. One TPM command for each.
 * @throws IotdmError `interrupted.*`; what is wrong with one TPM is in its entry
 */
export async function listTpms(
  machine: SearchedMachine,
  named: readonly NamedTpm[],
  signal?: AbortSignal,
): Promise<OfferedTpm[]> {
  const devices = await findDevices(machine);
  const seen = new Set<string>();
  const offered: OfferedTpm[] = [];
  for (const candidate of [...named.map((given) => ({ ...given, problem: undefined })), ...devices]) {
    if (seen.has(candidate.tcti)) continue;
    seen.add(candidate.tcti);
    const { tcti, source } = candidate;
    // What /sys says of a device holds for a setting that names it.
    const problem = devices.find((device) => device.tcti === tcti)?.problem;
    const found = problem === undefined ? await ask(machine, tcti, signal) : { error: problem };
    const path = /^device:(\/dev\/tpm\d+)$/.exec(tcti)?.[1];
    const managed = path === undefined || devices.some((other) => other.tcti === `device:${managedBy(path)}`);
    offered.push({ tcti, source, ...found, withoutResourceManager: !managed && !('error' in found) });
  }
  return offered;
}

interface Candidate extends NamedTpm {
  readonly problem: IotdmError | undefined;
}

async function findDevices(machine: SearchedMachine): Promise<Candidate[]> {
  if (machine.platform === 'win32') {
    return [{ tcti: 'tbs', source: 'Windows TPM Base Services', problem: undefined }];
  }
  const chips = (await machine.names('/sys/class/tpm'))
    .filter((name) => /^tpm\d+$/.test(name))
    .sort(byNumber);
  const nodes = (await machine.names('/dev')).filter((name) => /^tpm(rm)?\d+$/.test(name));
  const old = new Set<string>();
  for (const chip of chips) {
    if ((await machine.text(join('/sys/class/tpm', chip, 'tpm_version_major')))?.trim() === '1')
      old.add(chip);
  }
  const managed = nodes.filter((name) => name.startsWith('tpmrm')).sort(byNumber);
  const direct = nodes.filter((name) => !name.startsWith('tpmrm')).sort(byNumber);
  const present = [...managed, ...direct].map((name): Candidate => {
    const chip = name.replace('rm', '');
    return {
      tcti: `device:/dev/${name}`,
      source: '/dev',
      problem: old.has(chip)
        ? new IotdmError('tpm-unavailable.not-tpm2', `/dev/${name} is a TPM 1.2`)
        : undefined,
    };
  });
  // A container sees the host's /sys, but has only the devices that it was given.
  const withoutNode = chips
    .filter((chip) => !nodes.includes(chip) && !nodes.includes(chip.replace('tpm', 'tpmrm')))
    .map((chip): Candidate => {
      const path = `/dev/${old.has(chip) ? chip : chip.replace('tpm', 'tpmrm')}`;
      return {
        tcti: `device:${path}`,
        source: '/sys/class/tpm',
        problem: old.has(chip)
          ? new IotdmError('tpm-unavailable.not-tpm2', `${chip} is a TPM 1.2`)
          : new IotdmError(
              'tpm-unavailable.not-found',
              `the kernel has ${chip}, but there is no ${path} here`,
              {
                details: { withoutNode: path },
              },
            ),
      };
    });
  return [...present, ...withoutNode];
}

function byNumber(one: string, other: string): number {
  return Number(/\d+/.exec(one)?.[0]) - Number(/\d+/.exec(other)?.[0]);
}

function managedBy(path: string): string {
  return path.replace('/dev/tpm', '/dev/tpmrm');
}

async function ask(
  machine: SearchedMachine,
  tcti: string,
  signal: AbortSignal | undefined,
): Promise<{ description: TpmDescription } | { error: IotdmError }> {
  let tpm: Tpm | undefined;
  try {
    tpm = new Tpm(await machine.open(tcti), signal === undefined ? {} : { signal });
    return { description: await describeTpm(tpm) };
  } catch (error) {
    if (!(error instanceof IotdmError) || error.code.startsWith('interrupted')) throw error;
    return { error };
  } finally {
    await tpm?.close();
  }
}
