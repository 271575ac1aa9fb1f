/**
 * What a running command may use: settings, streams, and the TPM and the service as functions that connect when they
 * are called, so that help texts and usage errors touch nothing.
 */
import { createReadStream, existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { addAbortSignal } from 'node:stream';
import { IotdmError, systemErrorCode } from '../../src/errors.ts';
import { Secret } from '../../src/secret.ts';
import type { ProcessLock } from '../../src/process-lock.ts';
import type { RecoveryFiles } from '../../src/slot/recovery-files.ts';
import type { HttpTrace } from '../../src/dps/azure-http.ts';
import type { TokenAccess } from '../../src/dps/azure-service.ts';
import type { Proxy } from '../../src/dps/proxy.ts';
import type { ServiceCredentials } from '../../src/dps/service-connection-string.ts';
import type { EnrollmentGroups, ProvisioningService } from '../../src/dps/service.ts';
import type { Tcti } from '../../src/tpm/tcti.ts';
import type { Tpm } from '../../src/tpm/tpm.ts';
import type { HierarchyAuth } from '../../src/tpm/tss.ts';
import { Console, isReaderGone, type Streams } from './console.ts';
import { CommandError } from './failure.ts';
import { OpenedOnce } from './opened-once.ts';
import { secretVariables, type Environment, type Settings } from './settings.ts';
import { defaultStateDirectory } from './state-location.ts';

/** What the process gives to the commands. */
export interface Host extends Streams {
  readonly environment: Environment;
  /** Aborted by Ctrl-C or SIGTERM. */
  readonly signal: AbortSignal;
  readonly clock: () => Date;
  /** Such as `iotdm/0.1.0`. */
  readonly tool: string;
  /** Program and first arguments that start this very iotdm again. */
  readonly self: readonly string[];
  /** Present in a background process that is to say when it is ready. */
  readonly notifyParent?: (message: unknown) => void;
}

const DEFAULT_TPM_TIMEOUT_S = 120;
const DEFAULT_HTTP_TIMEOUT_S = 30;

/** What is made and renamed at once: what is older than this was left by a process that is gone. */
const DRAFT_MAX_AGE_MS = 60_000;

/** The slots of a TPM. */
export interface Slots {
  readonly tpm: Tpm;
  readonly recovery: RecoveryFiles;
}

/** What every client of a service is made with. */
export interface Network {
  readonly ca?: string;
  readonly proxy?: Proxy;
  readonly timeoutMs: number;
  readonly onRequest: (trace: HttpTrace) => void;
}

/** A connection string or an authorization value is far shorter. */
const SECRET_LIMIT_BYTES = 65536;

export type Service = ProvisioningService & EnrollmentGroups;

export interface ServiceOptions {
  /** How often a request is sent that the service refuses for its load; 1 for whoever repeats by itself. */
  readonly attempts?: number;
  /** How long an interruption leaves requests under way to finish; not at all when absent. */
  readonly graceMs?: number;
  /** Connections at a time: as many as requests that are under way at once. */
  readonly maxSockets?: number;
}

/** The same with every member, so that equal ones look alike. */
type ClientOptions = { readonly [Name in keyof Required<ServiceOptions>]: ServiceOptions[Name] | undefined };

export class Context {
  readonly host: Host;
  readonly settings: Settings;
  readonly console: Console;
  /** Such as `iotdm slot write`. */
  readonly command: string;
  readonly #tpm = new OpenedOnce(
    async () => this.connectTpm(await this.#tcti()),
    (tpm) => this.#endTpm(tpm),
  );
  readonly #lock = new OpenedOnce(
    async () => this.#holdTpm(await this.#tcti()),
    (lock) => {
      lock.release();
    },
  );
  /** By their options. */
  readonly #services = new Map<string, OpenedOnce<Service>>();
  /** Aborted when the command ends, for what it would still wait for. */
  readonly #ended = new AbortController();
  #access: Promise<ServiceCredentials | TokenAccess> | undefined;
  #auth: Promise<HierarchyAuth> | undefined;
  #stdinTakenBy: string | undefined;
  #certificates: Promise<string | undefined> | undefined;
  #hasNoReader = false;

  constructor(host: Host, settings: Settings, command = 'iotdm') {
    this.host = host;
    this.settings = settings;
    this.command = command;
    this.console = new Console(host, settings);
  }

  /** Connects to the TPM on the first call. @throws IotdmError `tpm-unavailable.*`, `usage.*` */
  async openTpm(): Promise<Tpm> {
    return this.#tpm.get();
  }

  /**
   * The same for a command that changes what the TPM keeps: no other iotdm does so until this one closes it. A dry run
   * changes nothing, and takes no lock.
   * @throws IotdmError `tpm-unavailable.busy` and what else `openTpm` throws, `usage.output-unwritable`
   */
  async openTpmToChange(): Promise<Tpm> {
    if (!this.settings.dryRun) await this.#lock.get();
    return this.openTpm();
  }

  /** The slots, to read them. Needs no state directory. @throws as `openTpm` does */
  async openSlots(): Promise<Slots> {
    return { tpm: await this.openTpm(), recovery: await this.recoveryFiles() };
  }

  /** The slots, to change them. @throws as `openTpmToChange` does */
  async openSlotsToChange(): Promise<Slots> {
    return { tpm: await this.openTpmToChange(), recovery: await this.recoveryFiles() };
  }

  /** The records of interrupted changes. Asks no TPM. */
  async recoveryFiles(): Promise<RecoveryFiles> {
    const { RecoveryFiles } = await import('../../src/slot/recovery-files.ts');
    return new RecoveryFiles(this.stateDirectory);
  }

  get stateDirectory(): string {
    return this.settings.stateDir ?? defaultStateDirectory(this.host.environment);
  }

  /**
   * Connects to this TPM, or to the machine's own; whoever asks closes it.
   * @param label what to put before its commands in a trace of several TPMs
   * @throws IotdmError `tpm-unavailable.*`, `usage.*`
   */
  async connectTpm(tcti: Tcti | undefined, label = 'tpm'): Promise<Tpm> {
    this.#auth ??= this.#hierarchyAuth();
    const auth = await this.#auth;
    const [{ openTransport }, { Tpm }, { decodeResponseCode }] = await Promise.all([
      import('../../src/tpm/open.ts'),
      import('../../src/tpm/tpm.ts'),
      import('../../src/tpm/response-code.ts'),
    ]);
    const timeoutMs = (this.settings.timeout ?? DEFAULT_TPM_TIMEOUT_S) * 1000;
    const transport = await this.#unlessInterrupted(openTransport(tcti, timeoutMs));
    this.console.detail(`TPM at ${transport.name}`);
    return new Tpm(transport, {
      auth,
      signal: this.host.signal,
      onCommand: ({ command, responseCode, elapsedMs }) => {
        const answer = responseCode === 0 ? 'ok' : decodeResponseCode(responseCode).name;
        this.console.trace(`${label}: ${command} ${answer} ${elapsedMs.toFixed(1)} ms`);
      },
    });
  }

  /**
   * Connects anew to the TPM of one device and holds it against other iotdm; whoever asks closes it.
   * @param label as for `connectTpm`
   * @throws IotdmError `tpm-unavailable.*`, `usage.*`
   */
  async openDevice(tcti: Tcti | undefined, label: string): Promise<Slots & { close(): Promise<void> }> {
    const lock = this.settings.dryRun ? undefined : await this.#holdTpm(tcti);
    try {
      const [tpm, recovery] = await Promise.all([this.connectTpm(tcti, label), this.recoveryFiles()]);
      return {
        tpm,
        recovery,
        close: async () => {
          await tpm.close().finally(() => {
            lock?.release();
          });
        },
      };
    } catch (error) {
      lock?.release();
      throw error;
    }
  }

  /** Whether there is anything to open the service with. */
  get hasServiceCredentials(): boolean {
    const { dps, dpsConnectionStringFile } = this.settings;
    const value = this.host.environment[secretVariables.dpsConnectionString] ?? '';
    return dps !== undefined || dpsConnectionStringFile !== undefined || value !== '';
  }

  /**
   * Prepares a client of the Device Provisioning Service, one for all who ask for the same options; the first request
   * connects.
   */
  async openService({ attempts, graceMs, maxSockets }: ServiceOptions = {}): Promise<Service> {
    const key = JSON.stringify([attempts, graceMs, maxSockets]);
    const opened =
      this.#services.get(key) ??
      new OpenedOnce(
        () => this.#connectService({ attempts, graceMs, maxSockets }),
        (service) => {
          this.#endService(service);
        },
      );
    this.#services.set(key, opened);
    return opened.get();
  }

  /** Time limit of one HTTP request. */
  get httpTimeoutMs(): number {
    return (this.settings.timeout ?? DEFAULT_HTTP_TIMEOUT_S) * 1000;
  }

  /** The certificates that --ca names. @throws IotdmError `input.unreadable`, `input.invalid` */
  async extraCertificates(): Promise<string | undefined> {
    const { ca } = this.settings;
    // Standard input can be read once only.
    this.#certificates ??= ca === undefined ? Promise.resolve(undefined) : this.#readCertificates(ca);
    return this.#certificates;
  }

  /**
   * How to reach a service: what the shared options say, and the trace of its requests.
   * @param host name or `host:port`; whether there is a proxy on the way depends on it
   */
  async network(host: string): Promise<Network> {
    const [ca, proxy] = [await this.extraCertificates(), await this.#proxyTo(host)];
    if (proxy !== undefined) this.console.detail(`through the proxy ${proxy.name}`);
    return {
      ...(ca === undefined ? {} : { ca }),
      ...(proxy === undefined ? {} : { proxy }),
      timeoutMs: this.httpTimeoutMs,
      onRequest: ({ method, path, status, elapsedMs, error }) => {
        const answer = status === undefined ? (error ?? 'no answer') : String(status);
        this.console.trace(`http: ${method} ${path} ${answer} ${elapsedMs.toFixed(0)} ms`);
      },
    };
  }

  /** Ends all connections. What cannot be closed is said, and changes nothing of what the command has come to. */
  async close(): Promise<void> {
    this.#ended.abort();
    await this.#closing(this.#tpm, 'the connection to the TPM could not be closed');
    await this.#closing(this.#lock, 'the lock of the TPM could not be released');
    for (const service of this.#services.values()) {
      await this.#closing(service, 'the connections to the service could not be closed');
    }
  }

  async #closing(opened: Pick<OpenedOnce<unknown>, 'close'>, problem: string): Promise<void> {
    try {
      await opened.close();
    } catch (error) {
      this.console.warn(`${problem}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  async #endTpm(tpm: Tpm): Promise<void> {
    const sent = tpm.commandsSent;
    this.console.detail(
      `${sent.length} TPM ${sent.length === 1 ? 'command' : 'commands'}: ${sent.join(', ')}`,
    );
    await tpm.close();
  }

  #endService(service: Service): void {
    const { requests, host } = service;
    this.console.detail(`${requests} HTTP ${requests === 1 ? 'request' : 'requests'} to ${host}`);
    service.close();
  }

  /**
   * Writes to standard output. A reader that has gone is no failure: what the command came to is its exit code.
   * @throws IotdmError `usage.output-unwritable` where the output goes to a place that takes no more
   */
  print(text: string | Buffer): Promise<void> {
    const { stdout } = this.host;
    return new Promise((resolve, reject) => {
      stdout.write(text, (error) => {
        if (error == null) resolve();
        else if (isReaderGone(stdout, error)) {
          this.#hasNoReader = true;
          resolve();
        } else reject(unwritable(error));
      });
    });
  }

  /** Nobody reads standard output any more: whoever only has more to print may end. */
  get hasNoReader(): boolean {
    return this.#hasNoReader;
  }

  /** Asks before something destructive. @throws IotdmError `usage.needs-confirmation` */
  async confirm(question: string): Promise<void> {
    if (this.settings.yes) return;
    if (!this.console.isInteractive) {
      throw new IotdmError(
        'usage.needs-confirmation',
        `not at a terminal, and this is destructive: ${question}`,
      );
    }
    if (!(await this.console.confirm(question, this.host.signal))) {
      throw new IotdmError('usage.needs-confirmation', 'not confirmed, nothing was changed');
    }
  }

  /** The bytes of a file, or of stdin for `-`. @throws IotdmError `input.unreadable` */
  async readInput(file: string, what: string, limitBytes = Number.POSITIVE_INFINITY): Promise<Buffer> {
    const pieces: Buffer[] = [];
    let length = 0;
    for await (const piece of this.openInput(file, what)) {
      length += piece.length;
      if (length > limitBytes)
        throw new IotdmError('input.invalid', `${what} is longer than ${limitBytes} bytes`);
      pieces.push(piece);
    }
    return Buffer.concat(pieces);
  }

  /** The same as a stream. Standard input is there for one thing only: it is taken when this is called. */
  openInput(file: string, what = 'the input'): AsyncIterable<Buffer> {
    if (file === '-') this.#takeStdin(what);
    return this.#stream(file);
  }

  async *#stream(file: string): AsyncIterable<Buffer> {
    const stream = file === '-' ? this.host.stdin : createReadStream(file);
    addAbortSignal(this.host.signal, stream);
    try {
      for await (const piece of stream) yield typeof piece === 'string' ? Buffer.from(piece) : piece;
    } catch (error) {
      throw readFailure(file, file === '-' ? 'standard input' : file, error);
    }
  }

  /**
   * A secret from a file, stdin (`-`) or the environment; asked for at a terminal where none of them gives it.
   * @returns undefined where there is none
   */
  async readSecret(file: string | undefined, variable: string, what: string): Promise<Secret | undefined> {
    if (file !== undefined) return this.readSecretFile(file, what);
    const value = this.host.environment[variable];
    return value === undefined || value === '' ? undefined : Secret.fromText(value);
  }

  /** A secret from a file or stdin (`-`). */
  async readSecretFile(file: string, what: string): Promise<Secret> {
    if (/sharedaccesskey\s*=/i.test(file)) {
      throw new IotdmError(
        'usage.secret-in-argv',
        `${what} was given itself where the name of its file is expected`,
      );
    }
    if (file === '-' && this.console.isInteractive) {
      this.#takeStdin(what);
      return Secret.fromText(await this.console.askSecret(`Enter ${what}`, this.host.signal));
    }
    await this.#warnIfReadableByOthers(file);
    try {
      return Secret.fromFile(await this.readInput(file, what, SECRET_LIMIT_BYTES));
    } catch (error) {
      throw withoutName(file, what, error);
    }
  }

  /** The TPM that the settings name; undefined for the machine's own. */
  async #tcti(): Promise<Tcti | undefined> {
    const { parseTcti } = await import('../../src/tpm/tcti.ts');
    const { tpm } = this.settings;
    return tpm === undefined ? undefined : parseTcti(tpm);
  }

  async #holdTpm(tcti: Tcti | undefined): Promise<ProcessLock> {
    const [{ holdTpm, isTpmLock }, { isRecoveryFile }, { isRegistrationFile }, { removeDrafts }] =
      await Promise.all([
        import('../../src/tpm/tpm-lock.ts'),
        import('../../src/slot/recovery-files.ts'),
        import('../../src/station/registration-records.ts'),
        import('../../src/state-directory.ts'),
      ]);
    const { wait = 0 } = this.settings;
    const dir = this.stateDirectory;
    const lock = await holdTpm({
      dir,
      tcti,
      waitMs: wait * 1000,
      command: this.command,
      since: this.host.clock(),
      signal: AbortSignal.any([this.host.signal, this.#ended.signal]),
      onWait: ({ pid }) => {
        this.console.note(`waiting for another iotdm to release the TPM (process ${pid})`);
      },
    });
    removeDrafts(dir, (name) => isTpmLock(name) || isRecoveryFile(name) || isRegistrationFile(name), {
      olderThanMs: DRAFT_MAX_AGE_MS,
    });
    return lock;
  }

  #takeStdin(what: string): void {
    if (this.#stdinTakenBy !== undefined) {
      throw new IotdmError('usage.invalid', `${what} and ${this.#stdinTakenBy} cannot both come from stdin`);
    }
    this.#stdinTakenBy = what;
  }

  async #warnIfReadableByOthers(file: string): Promise<void> {
    if (file === '-' || process.platform === 'win32') return;
    const mode = await stat(file).then(
      (found) => (found.isFile() ? found.mode : 0),
      () => 0,
    );
    if ((mode & 0o077) !== 0) {
      this.console.warn(`other users of this machine can read ${file}: chmod 600 ${file}`);
    }
  }

  /** Waits no longer than the user does. What is still under way then ends with the process. */
  async #unlessInterrupted<T>(work: Promise<T>): Promise<T> {
    const { signal } = this.host;
    let leave: () => void = () => undefined;
    const interrupted = new Promise<never>((_, reject) => {
      leave = () => {
        reject(new IotdmError('interrupted.signal', 'interrupted'));
      };
      if (signal.aborted) leave();
      else signal.addEventListener('abort', leave);
    });
    try {
      return await Promise.race([work, interrupted]);
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  async #hierarchyAuth(): Promise<HierarchyAuth> {
    const { ownerAuthFile, endorsementAuthFile, lockoutAuthFile } = this.settings;
    const { ownerAuth, endorsementAuth, lockoutAuth } = secretVariables;
    const owner = await this.readSecret(ownerAuthFile, ownerAuth, 'the owner authorization value');
    const endorsement = await this.readSecret(
      endorsementAuthFile,
      endorsementAuth,
      'the endorsement authorization value',
    );
    const lockout = await this.readSecret(lockoutAuthFile, lockoutAuth, 'the lockout authorization value');
    return {
      ...(owner === undefined ? {} : { owner: withoutLineEnd(owner) }),
      ...(endorsement === undefined ? {} : { endorsement: withoutLineEnd(endorsement) }),
      ...(lockout === undefined ? {} : { lockout: withoutLineEnd(lockout) }),
    };
  }

  async #connectService({ attempts, graceMs, maxSockets }: ClientOptions): Promise<Service> {
    // Standard input can be read once only.
    this.#access ??= this.#serviceAccess();
    const credentials = await this.#access;
    const { openAzureService } = await import('../../src/dps/azure-service.ts');
    const { dps } = this.settings;
    const service = openAzureService({
      credentials,
      ...(dps === undefined ? {} : { host: dps }),
      ...(await this.network(dps ?? credentials.host)),
      userAgent: this.host.tool,
      ...(attempts === undefined ? {} : { attempts }),
      ...(maxSockets === undefined ? {} : { maxSockets }),
    });
    if (this.host.signal.aborted) service.close();
    this.host.signal.addEventListener('abort', () => {
      if (graceMs === undefined) service.close();
      else
        setTimeout(() => {
          service.close();
        }, graceMs).unref();
    });
    return service;
  }

  async #serviceAccess(): Promise<ServiceCredentials | TokenAccess> {
    const secret = await this.readSecret(
      this.settings.dpsConnectionStringFile,
      secretVariables.dpsConnectionString,
      "the service's connection string",
    );
    const { dps } = this.settings;
    if (secret === undefined && dps === undefined) {
      throw new IotdmError('usage.no-credentials', 'no credentials for the Device Provisioning Service');
    }
    if (secret !== undefined) return this.#policyAccess(secret);
    const certificates = await this.extraCertificates();
    return this.#entraAccess(dps ?? '', certificates === undefined ? {} : { ca: certificates });
  }

  async #policyAccess(secret: Secret): Promise<ServiceCredentials> {
    const { parseServiceConnectionString } = await import('../../src/dps/service-connection-string.ts');
    try {
      return parseServiceConnectionString(secret);
    } catch (error) {
      if (!(error instanceof IotdmError) || error.code !== 'usage.invalid') throw error;
      throw new CommandError(
        error.code,
        error.message,
        'expected HostName=NAME.azure-devices-provisioning.net;SharedAccessKeyName=POLICY;SharedAccessKey=KEY, as the portal shows it under Shared access policies; in a shell between quotes',
      );
    } finally {
      secret.wipe();
    }
  }

  async #entraAccess(host: string, ca: { readonly ca?: string }): Promise<TokenAccess> {
    const [
      { entraCredential, refuseForeignHost },
      { BearerToken },
      { clouds, cloudOfHost },
      { parseServiceHost },
    ] = await Promise.all([
      import('../../src/dps/entra.ts'),
      import('../../src/dps/bearer-token.ts'),
      import('../../src/dps/clouds.ts'),
      import('../../src/dps/service-host.ts'),
    ]);
    refuseForeignHost(host);
    const cloud = cloudOfHost(parseServiceHost(host).hostname) ?? clouds[0];
    // Whoever says it in the environment, as Azure's library has it, knows better.
    const isSaid = (this.host.environment['AZURE_AUTHORITY_HOST'] ?? '') !== '';
    const authority = isSaid || cloud === clouds[0] ? {} : { authorityHost: cloud.authorityHost };
    // From the environment it takes its proxy itself, and spares the machine's own addresses.
    const isSetHere = this.settings.proxy !== undefined && !this.#isProxyOfEnvironment();
    const proxy = isSetHere ? await this.#proxyTo(new URL(cloud.authorityHost).hostname) : undefined;
    this.console.detail('no connection string: Microsoft Entra ID is asked for a token');
    return {
      host,
      token: new BearerToken(
        entraCredential({ ...ca, ...authority, ...(proxy === undefined ? {} : { proxy }) }),
      ),
    };
  }

  #isProxyOfEnvironment(): boolean {
    const { HTTPS_PROXY: upper, https_proxy: lower } = this.host.environment;
    return !this.settings.flags.has('proxy') && [upper, lower].includes(this.settings.proxy);
  }

  /** The proxy that leads to a host, or undefined where there is none. @throws IotdmError `usage.*` */
  async #proxyTo(host: string): Promise<Proxy | undefined> {
    const { proxy: given, flags } = this.settings;
    if (given === undefined || given === '') return undefined;
    const [{ isExemptFromProxy, parseProxy }, { isLoopback, parseServiceHost }] = await Promise.all([
      import('../../src/dps/proxy.ts'),
      import('../../src/dps/service-host.ts'),
    ]);
    const proxy = parseProxy(given);
    if (flags.has('proxy') && proxy.credentials !== undefined) {
      throw new CommandError(
        'usage.secret-in-argv',
        '--proxy is not accepted with a password in it',
        'every user of this machine can read a command line: set HTTPS_PROXY in the environment',
      );
    }
    // A machine's proxy is for what is outside of it: the emulator is reached directly.
    if (this.#isProxyOfEnvironment() && isLoopback(parseServiceHost(host).hostname)) return undefined;
    const { NO_PROXY: upper = '', no_proxy: lower = '' } = this.host.environment;
    return isExemptFromProxy(`${upper},${lower}`, parseServiceHost(host)) ? undefined : proxy;
  }

  async #readCertificates(file: string): Promise<string> {
    const pem = (await this.readInput(file, 'the certificate authority')).toString('utf8');
    if (!pem.includes('-----BEGIN CERTIFICATE-----')) {
      throw new CommandError(
        'input.invalid',
        `${file} holds no PEM certificate`,
        'convert a DER certificate with: openssl x509 -inform der -in FILE -out ca.pem',
      );
    }
    return pem;
  }
}

function unwritable(cause: Error): IotdmError {
  const reason = systemErrorCode(cause) ?? cause.message;
  return new IotdmError('usage.output-unwritable', `standard output cannot be written (${reason})`, {
    cause,
    details: { output: 'stdout' },
  });
}

/** An editor ends a file with a line break that is not part of the value. */
function withoutLineEnd(secret: Secret): Buffer {
  const bytes = secret.bytes;
  let end = bytes.length;
  while (end > 0 && (bytes[end - 1] === 0x0a || bytes[end - 1] === 0x0d)) end -= 1;
  return bytes.subarray(0, end);
}

/** A name that is longer than any may be a key or another secret that was given itself: its beginning says which. */
function shownFileName(file: string): string {
  return file.length > 255 ? `${file.slice(0, 20)}…` : file;
}

/**
 * Where a file's name is expected people give the secret itself, and then there is no such file. A name is repeated
 * only where it cannot be taken for a secret: with an extension, or in a directory that is there.
 */
function withoutName(file: string, what: string, error: unknown): unknown {
  if (!(error instanceof IotdmError) || error.code !== 'input.unreadable') return error;
  const isInDirectory = dirname(file) !== '.' && existsSync(dirname(file));
  if (isInDirectory || /^[\w-]{1,40}\.[a-z]{2,4}$/i.test(file)) return error;
  const cause = systemErrorCode(error.cause);
  const reason = reasons[cause ?? ''] ?? cause ?? 'unknown error';
  return new IotdmError(error.code, `cannot read the file that was given for ${what}: ${reason}`);
}

const reasons: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
};

export function readFailure(file: string, what: string, cause: unknown): unknown {
  const code = systemErrorCode(cause);
  if (cause instanceof IotdmError || code === undefined) return cause;
  if (code === 'ABORT_ERR') return new IotdmError('interrupted.signal', 'interrupted', { cause });
  const name = file === '-' ? 'standard input' : shownFileName(file);
  const subject = what === file ? name : `${what} from ${name}`;
  return new IotdmError('input.unreadable', `cannot read ${subject}: ${reasons[code] ?? code}`, { cause });
}
