/**
 * Where the key at 0x81010001 comes from. One seed gives many endorsement keys, and their bytes do not tell which
 * template made them: the certificate may name the key, else the templates are tried.
 */
import { isCertificateFor, type StoredCertificate } from './ek-certificate.ts';
import type { Tpm } from './tpm.ts';
import { ekTemplate, sdkEkTemplate } from './tss.ts';

/**
 * `manufacturer`: the key that the EK certificate names, or that the TCG's template L-1 gives. `azure-sdk`: made by one
 * of Azure's SDKs, which leave `unique` empty; no certificate names it. `foreign`: neither.
 */
export type EkOrigin = 'manufacturer' | 'azure-sdk' | 'foreign';

export interface EkOriginFinding {
  readonly origin: EkOrigin;
  /** What it was told by. */
  readonly evidence: 'certificate' | 'template-l1' | 'template-empty-unique' | 'none';
}

/** The public part of a template's key. */
export interface DerivedKey {
  /** Marshalled TPM2B_PUBLIC. */
  readonly publicArea: Buffer;
  /** RSA modulus, big-endian. */
  readonly modulus: Buffer;
}

/** Derives each template's key at most once, as it takes a chip seconds; what failed is not tried again either. */
export class EkDerivation {
  readonly #tpm: Tpm;
  #manufacturer: Promise<DerivedKey> | undefined;
  #azureSdk: Promise<DerivedKey> | undefined;

  constructor(tpm: Tpm) {
    this.#tpm = tpm;
  }

  /** Template L-1. Two TPM commands the first time, under the endorsement hierarchy's authorization. */
  manufacturer(): Promise<DerivedKey> {
    return (this.#manufacturer ??= this.#derive(ekTemplate()));
  }

  /** The template of Azure's SDKs. Two TPM commands the first time, likewise. */
  azureSdk(): Promise<DerivedKey> {
    return (this.#azureSdk ??= this.#derive(sdkEkTemplate()));
  }

  async #derive(template: ReturnType<typeof ekTemplate>): Promise<DerivedKey> {
    return this.#tpm.withPrimary('endorsement', template, ({ publicArea, rsa }) =>
      Promise.resolve({ publicArea, modulus: rsa?.modulus ?? Buffer.alloc(0) }),
    );
  }
}

/**
 * No TPM command where the certificate names the key, two where template L-1 gives it, four otherwise.
 * @param key what stands at 0x81010001
 * @param certificate what `findEkCertificate` found; whether its issuer is to be trusted is not looked at
 * @throws IotdmError `tpm.*` where the TPM does not derive keys, such as `tpm.authorization`
 */
export async function findEkOrigin(
  key: DerivedKey,
  certificate: StoredCertificate,
  derivation: EkDerivation,
): Promise<EkOriginFinding> {
  if (certificate.kind === 'certificate' && isCertificateFor(certificate, key.modulus)) {
    return { origin: 'manufacturer', evidence: 'certificate' };
  }
  if ((await derivation.manufacturer()).publicArea.equals(key.publicArea)) {
    return { origin: 'manufacturer', evidence: 'template-l1' };
  }
  if ((await derivation.azureSdk()).publicArea.equals(key.publicArea)) {
    return { origin: 'azure-sdk', evidence: 'template-empty-unique' };
  }
  return { origin: 'foreign', evidence: 'none' };
}
