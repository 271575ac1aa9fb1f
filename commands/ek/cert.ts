import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { deliver } from '../shared/output-file.ts';
import { outputFormat } from '../shared/output-format.ts';
import { table, type Verb } from '../shared/verb.ts';

const certificateFormats = ['text', 'json', 'pem', 'der'] as const;
type CertificateFormat = (typeof certificateFormats)[number];

export interface EkCertOptions {
  readonly format?: CertificateFormat;
  readonly out?: string;
  readonly overwrite?: boolean;
}

export const ekCert: Verb<[], EkCertOptions, void> = {
  name: 'cert',
  summary: "read the manufacturer's certificate of the endorsement key",
  description:
    'Reads the EK certificate that the manufacturer put into the TPM (NV index 0x01c00002) and shows it; whether it ' +
    'can be trusted is what ek verify tells. Changes nothing in the TPM.',
  examples: ['iotdm ek cert', 'iotdm ek cert --format pem --out ek.pem', 'iotdm ek cert --json'],
  seeAlso: ['iotdm ek verify', 'iotdm ek read'],
  settings: ['tpm', 'timeout'],
  options: [
    new Option(
      '--format <format>',
      'text where none is given; der is the certificate without the padding around it in the TPM',
    ).choices(certificateFormats),
    new Option('--out <file>', 'write to a file (mode 0600) and not to stdout'),
    new Option('--overwrite', 'replace the file that --out names'),
  ],
  async run(context, _args, options) {
    const format = outputFormat(context.settings, options.format);
    const { readEkCertificate } = await import('../../src/station/endorsement.ts');
    const der = await readEkCertificate(await context.openTpm());
    if (der === null) {
      throw new IotdmError('tpm.no-ek-certificate', 'there is no EK certificate in this TPM');
    }
    await deliver(context, options, await render(format, der));
  },
  describe: () => '',
};

async function render(format: CertificateFormat, der: Buffer): Promise<string | Buffer> {
  if (format === 'der') return der;
  if (format === 'pem') return pem(der);
  const { expiryOf, parseCertificate } = await import('../../src/trust/certificate.ts');
  let certificate: ReturnType<typeof parseCertificate>;
  try {
    certificate = parseCertificate(der);
  } catch (cause) {
    throw new IotdmError('verify.ek-certificate', 'the EK certificate in this TPM is damaged', { cause });
  }
  const { tpm, subject, issuer, serialNumber, notBefore, sha256 } = certificate;
  const notAfter = expiryOf(certificate)?.toISOString() ?? null;
  const result = {
    ...tpm,
    subject,
    issuer,
    serialNumber,
    notBefore: notBefore.toISOString(),
    notAfter,
    sha256,
  };
  if (format === 'json') {
    return `${JSON.stringify({ ...result, certificate: der.toString('base64') }, null, 2)}\n`;
  }
  return table([
    ['Manufacturer', tpm.manufacturer ?? '-'],
    ['Model', tpm.model ?? '-'],
    ['Version', tpm.version ?? '-'],
    ['Subject', subject === '' ? '-' : subject],
    ['Issuer', issuer],
    ['Serial number', serialNumber],
    ['Valid from', result.notBefore],
    ['Valid until', notAfter ?? 'no expiry'],
    ['SHA-256', sha256],
  ]);
}

/** Also of bytes that are damaged: they are what somebody wants to look at then. */
function pem(der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}
