import { Option } from 'commander';
import { CommandError } from '../shared/failure.ts';
import type { Context } from '../shared/context.ts';
import { trustPolicies, type TrustPolicy } from '../shared/line-settings.ts';
import { enforce, readRoots, rootsOption } from '../shared/trust.ts';
import { table, type Verb } from '../shared/verb.ts';
import type { ChainLink, Verdict } from '../../src/trust/verdict.ts';

export interface EkVerifyOptions {
  readonly roots?: readonly string[];
  readonly cert?: string;
  readonly prove?: boolean;
  readonly policy: TrustPolicy;
}

export interface EkVerifyResult {
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

const MAX_CERTIFICATE_FILE_BYTES = 1024 * 1024;

export const ekVerify: Verb<[], EkVerifyOptions, EkVerifyResult> = {
  name: 'verify',
  summary: 'verify that the endorsement key is that of a genuine TPM',
  description:
    'Verifies that the EK certificate in the TPM is for the key that the TPM has, and that it leads to a root ' +
    'certificate of a TPM vendor that you trust; revocation is not looked up. With --prove the TPM must also open a ' +
    'secret that only the private key can open, the way DPS will ask it to. Changes nothing in the TPM. Every verdict ' +
    'but genuine ends with exit code 9, unless --policy says otherwise.',
  examples: [
    'iotdm ek verify --roots /etc/iotdm/tpm-vendors',
    'iotdm ek verify --roots infineon-root.pem --roots infineon-intermediate.pem --prove',
    'iotdm ek verify --cert ek.crt --roots amd.pem --json',
    'iotdm ek verify --roots .iotdm/simulator/ca --prove',
  ],
  seeAlso: ['iotdm ek cert', 'iotdm ek read', 'iotdm harvest --verify'],
  settings: ['tpm', 'timeout'],
  options: [
    rootsOption(),
    new Option(
      '--cert <file>',
      "EK certificate from the vendor's web, PEM or DER (default: the one in the TPM)",
    ),
    new Option('--prove', 'have the TPM prove that it holds the private key'),
    new Option('--policy <policy>', 'on a verdict other than genuine: fail, warn, or only report it')
      .choices(trustPolicies)
      .default('require'),
  ],
  async run(context, _args, options) {
    const given = options.cert === undefined ? undefined : await readCertificate(context, options.cert);
    const trusted = await readRoots(context, options.roots);
    const { assessEndorsement } = await import('../../src/station/endorsement.ts');
    const tpm = await context.openTpm();
    const progress = await context.console.progress(
      'Verifying the endorsement key; deriving it takes a chip a while',
    );
    let result: EkVerifyResult;
    try {
      result = await assessEndorsement({
        tpm,
        trusted,
        now: context.host.clock(),
        prove: options.prove === true,
        ...(given === undefined ? {} : { certificate: given }),
      });
    } finally {
      progress.done();
    }
    if (result.verdict !== 'genuine' && options.policy === 'require') {
      // The error ends the command; scripts and people have the whole result as well.
      const { json } = context.settings;
      await context.print(json ? `${JSON.stringify(result, null, 2)}\n` : describe(result, context));
    }
    enforce(result, options.policy, context);
    return result;
  },
  describe,
};

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
  } catch {
    throw new CommandError(
      'input.invalid',
      `${file} holds no X.509 certificate, neither PEM nor DER`,
      `look at it with: openssl x509 -text -noout -in ${file}`,
    );
  }
}

function describe(result: EkVerifyResult, { console: { style } }: Context): string {
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
