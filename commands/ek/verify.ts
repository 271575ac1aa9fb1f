import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { CommandError } from '../shared/failure.ts';
import type { Context } from '../shared/context.ts';
import { trustPolicies, type TrustPolicy } from '../shared/line-settings.ts';
import {
  describeLone,
  enforceLone,
  isInOrder,
  judgeLoneCertificates,
  type LoneCertificate,
} from '../shared/lone-certificates.ts';
import { enforce, listedPassedOver, readRoots, rootsOption } from '../shared/trust.ts';
import { table, type Verb } from '../shared/verb.ts';
import type { PassedOver, TrustedCertificates } from '../../src/trust/roots.ts';
import type { ChainLink, Verdict } from '../../src/trust/verdict.ts';

export interface EkVerifyOptions {
  readonly roots?: readonly string[];
  readonly cert?: readonly string[];
  readonly noTpm?: boolean;
  readonly prove?: boolean;
  readonly policy: TrustPolicy;
}

export interface DeviceResult {
  readonly verdict: Verdict;
  readonly reason: string;
  readonly manufacturer: string | null;
  readonly model: string | null;
  readonly version: string | null;
  readonly issuer: string | null;
  readonly serialNumber: string | null;
  readonly chain: readonly ChainLink[];
  readonly proved: boolean | null;
}

export interface LoneResults {
  readonly total: number;
  readonly verified: number;
  readonly certificates: readonly LoneCertificate[];
}

export type EkVerifyResult = (DeviceResult | LoneCertificate | LoneResults) & {
  /** Of what --roots names, the first hundred. */
  readonly passedOver: readonly PassedOver[];
};

const MAX_CERTIFICATE_FILE_BYTES = 1024 * 1024;

export const ekVerify: Verb<[], EkVerifyOptions, EkVerifyResult> = {
  name: 'verify',
  summary: 'verify that the endorsement key is that of a genuine TPM',
  description:
    'Verifies that the EK certificate in the TPM is for the key that the TPM has, and that it leads to a root ' +
    'certificate of a TPM vendor that you trust; revocation is not looked up. With --prove the TPM must also open a ' +
    'secret that only the private key can open, the way DPS will ask it to. Changes nothing in the TPM. Every verdict ' +
    'but genuine ends with exit code 9, unless --policy says otherwise.\n\n' +
    'One --cert is the certificate of the TPM that is asked. With --no-tpm, or with several --cert, no TPM is asked: each ' +
    'certificate is checked by itself, that it is for a key that DPS takes (key), names manufacturer, model and version ' +
    '(names), is for an EK (usage), is valid today (dates) and leads to a trusted root (chain). The verdict is then ' +
    'device-not-checked, with exit code 0, and never genuine: anybody can show the certificate of a genuine TPM.',
  examples: [
    'iotdm ek verify --roots /etc/iotdm/tpm-vendors',
    'iotdm ek verify --roots infineon-root.pem --roots infineon-intermediate.pem --prove',
    'iotdm ek verify --cert ek.crt --roots amd.pem --json',
    'iotdm ek verify --roots .iotdm/simulator/ca --prove',
    'iotdm ek verify --no-tpm --cert delivered/*.crt --roots /etc/iotdm/tpm-vendors',
  ],
  seeAlso: ['iotdm ek cert', 'iotdm ek read', 'iotdm enrollment import --verify', 'iotdm harvest --verify'],
  settings: ['tpm', 'timeout'],
  options: [
    rootsOption(),
    new Option(
      '--cert <file...>',
      "EK certificate from the vendor's web, PEM or DER (default: the one in the TPM); several are checked without a TPM",
    ),
    withoutTpmOption(),
    new Option('--prove', 'have the TPM prove that it holds the private key'),
    new Option('--policy <policy>', 'on a verdict other than genuine: fail, warn, or only report it')
      .choices(trustPolicies)
      .default('require'),
  ],
  async run(context, _args, options) {
    const { cert: files = [], noTpm = false, prove = false } = options;
    checkUsage(context, options);
    if (noTpm || files.length > 1) {
      const trusted = await readRoots(context, options.roots);
      const result = await verifyAlone(context, files, trusted);
      const certificates = certificatesOf(result);
      if (options.policy === 'require' && !certificates.every(isInOrder)) await show(context, result);
      enforceLone(certificates, options.policy, context);
      return result;
    }
    const [file] = files;
    const given = file === undefined ? undefined : await readCertificate(context, file);
    const trusted = await readRoots(context, options.roots);
    const { assessEndorsement } = await import('../../src/station/endorsement.ts');
    const tpm = await context.openTpm().catch(async (error: unknown) => {
      throw file === undefined || prove ? error : await withoutItsTpm(context, file, trusted, error);
    });
    const progress = await context.console.progress(
      'Verifying the endorsement key; deriving it takes a chip a while',
    );
    let result: DeviceResult & Pick<EkVerifyResult, 'passedOver'>;
    try {
      const assessment = await assessEndorsement({
        tpm,
        trusted,
        now: context.host.clock(),
        prove,
        ...(given === undefined ? {} : { certificate: given }),
      });
      result = { ...assessment, passedOver: listedPassedOver(trusted) };
    } finally {
      progress.done();
    }
    // The error ends the command; scripts and people have the whole result as well.
    if (result.verdict !== 'genuine' && options.policy === 'require') await show(context, result);
    enforce(result, options.policy, context);
    return result;
  },
  describe,
};

/** Commander would take it for the opposite of --tpm, which is an option of all commands. */
function withoutTpmOption(): Option {
  const option = new Option('--no-tpm', 'ask no TPM: check the certificates that --cert names by themselves');
  option.negate = false;
  return option;
}

/** @throws IotdmError `usage.invalid` */
function checkUsage(
  { settings }: Context,
  { cert: files = [], noTpm = false, prove = false }: EkVerifyOptions,
): void {
  const isAlone = noTpm || files.length > 1;
  if (noTpm && files.length === 0) {
    throw new CommandError(
      'usage.invalid',
      '--no-tpm without a certificate',
      'name the certificates with --cert FILE…',
    );
  }
  if (isAlone && prove) {
    throw new CommandError(
      'usage.invalid',
      '--prove asks a TPM, and certificates are checked without one here',
      'leave --prove away, or give the one certificate of the TPM that is to prove its key',
    );
  }
  if (noTpm && settings.flags.has('tpm')) {
    throw new CommandError(
      'usage.invalid',
      '--tpm and --no-tpm exclude each other',
      'leave one of them away',
    );
  }
}

async function verifyAlone(
  context: Context,
  files: readonly string[],
  trusted: TrustedCertificates,
): Promise<(LoneCertificate | LoneResults) & Pick<EkVerifyResult, 'passedOver'>> {
  const certificates = await judgeLoneCertificates(context, files, trusted);
  const passedOver = listedPassedOver(trusted);
  const [only, ...others] = certificates;
  if (only !== undefined && others.length === 0) return { ...only, passedOver };
  const verified = certificates.filter(isInOrder).length;
  return { total: certificates.length, verified, certificates, passedOver };
}

/** Where no TPM was named and none is there, what can be said of the certificate is said, and the error stays. */
async function withoutItsTpm(
  context: Context,
  file: string,
  trusted: TrustedCertificates,
  error: unknown,
): Promise<unknown> {
  const isAbsent = error instanceof IotdmError && error.code === 'tpm-unavailable.not-found';
  if (!isAbsent || context.settings.tpm !== undefined) return error;
  await show(context, await verifyAlone(context, [file], trusted));
  return new CommandError(
    error.code,
    `${error.message}; the certificate was checked by itself only`,
    'name the TPM with --tpm, or pass --no-tpm where the device is not to be asked',
  );
}

function certificatesOf(result: LoneCertificate | LoneResults): readonly LoneCertificate[] {
  return 'certificates' in result ? result.certificates : [result];
}

async function show(context: Context, result: EkVerifyResult): Promise<void> {
  const { json } = context.settings;
  await context.print(json ? `${JSON.stringify(result, null, 2)}\n` : describe(result, context));
}

/** The first certificate in the file, without a TCG header and padding. */
async function readCertificate(context: Context, file: string): Promise<Buffer> {
  const bytes = await context.readInput(file, 'the EK certificate', MAX_CERTIFICATE_FILE_BYTES);
  const [{ certificatesIn }, { parseCertificate }] = await Promise.all([
    import('../../src/trust/certificate-file.ts'),
    import('../../src/trust/certificate.ts'),
  ]);
  try {
    const certificate = certificatesIn(bytes)[0] ?? bytes;
    parseCertificate(certificate);
    return certificate;
  } catch (cause) {
    const why = cause instanceof IotdmError ? `: ${cause.message}` : '';
    throw new CommandError(
      'input.invalid',
      `${file} holds no X.509 certificate, neither PEM nor DER${why}`,
      `look at it with: openssl x509 -text -noout -in ${file}`,
    );
  }
}

function describe(result: EkVerifyResult, context: Context): string {
  if ('certificates' in result) return describeLone(result.certificates, context);
  if ('checked' in result) return describeLone([result], context);
  const { style } = context.console;
  const { verdict, reason, manufacturer, model, version, issuer, serialNumber, chain, proved } = result;
  const heading =
    verdict === 'genuine'
      ? `${style.green('✔')} Genuine: ${reason}.`
      : `${style.red('✘')} Not verified: ${reason}.`;
  const proof = { true: 'yes, the TPM holds the private key', false: 'no', null: 'not asked (--prove)' };
  return `${heading}\n${table([
    ['Verdict', verdict],
    ['Manufacturer', manufacturer ?? '-'],
    ['Model', model ?? '-'],
    ['Version', version ?? '-'],
    ['Issuer', issuer ?? '-'],
    ['Serial number', serialNumber ?? '-'],
    ...chain.map(({ subject, serialNumber: number }, index): readonly [string, string] => [
      index === 0 ? 'Chain' : '',
      subject === '' ? `(no subject, serial number ${number})` : subject,
    ]),
    ['Proved', proof[`${proved}`]],
  ])}`;
}
