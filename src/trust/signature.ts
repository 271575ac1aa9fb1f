/** The kinds of signature on certificates: which of them are good today, and how they are verified. */
import { constants, verify, type KeyObject } from 'node:crypto';
import { contentOf, wholeElement } from '../certificate-parts.ts';
import { derElements, derObjectIdentifier, derTag } from '../der.ts';

export interface Signature {
  /** Undefined where it is good, otherwise the name of a signature that can be forged or is not known. */
  readonly weakness: string | undefined;
  /** Whether the key made this signature; false also where that cannot be told. */
  isOf(key: KeyObject, signed: Buffer, signature: Buffer): boolean;
}

/** @param hash null where the kind of key says it */
function madeBy(kind: string, hash: string | null, weakness?: string, padding?: number): Signature {
  return {
    weakness,
    isOf(key, signed, signature) {
      try {
        if (key.asymmetricKeyType !== kind && !(padding !== undefined && key.asymmetricKeyType === 'rsa-pss'))
          return false;
        return verify(hash, signed, padding === undefined ? key : { key, padding }, signature);
      } catch {
        return false;
      }
    },
  };
}

/** RFC 8017, A.2.4; RFC 5758, 3.2; RFC 8410, 3. */
const known: Readonly<Record<string, Signature>> = {
  '1.2.840.113549.1.1.4': madeBy('rsa', 'md5', 'RSASSA-PKCS1-v1_5 with MD5'),
  '1.2.840.113549.1.1.5': madeBy('rsa', 'sha1', 'RSASSA-PKCS1-v1_5 with SHA-1'),
  '1.2.840.113549.1.1.11': madeBy('rsa', 'sha256'),
  '1.2.840.113549.1.1.12': madeBy('rsa', 'sha384'),
  '1.2.840.113549.1.1.13': madeBy('rsa', 'sha512'),
  '1.2.840.10045.4.1': madeBy('ec', 'sha1', 'ECDSA with SHA-1'),
  '1.2.840.10045.4.3.2': madeBy('ec', 'sha256'),
  '1.2.840.10045.4.3.3': madeBy('ec', 'sha384'),
  '1.2.840.10045.4.3.4': madeBy('ec', 'sha512'),
  '1.3.101.112': madeBy('ed25519', null),
  '1.3.101.113': madeBy('ed448', null),
};

const RSASSA_PSS = '1.2.840.113549.1.1.10';
/** [0] in RSASSA-PSS-params; SHA-1 where it is absent. */
const PSS_HASH = 0xa0;
/** NIST's. */
const pssHashes: Readonly<Record<string, string>> = {
  '2.16.840.1.101.3.4.2.1': 'sha256',
  '2.16.840.1.101.3.4.2.2': 'sha384',
  '2.16.840.1.101.3.4.2.3': 'sha512',
};

/** @param algorithm AlgorithmIdentifier, DER @throws TypeError, RangeError where it is none */
export function signatureOf(algorithm: Buffer): Signature {
  const whole = wholeElement(algorithm, derTag.sequence);
  const [oid, parameters] = derElements(algorithm, whole.start, whole.end);
  if (oid?.tag !== derTag.oid) throw new TypeError('the algorithm of its signature cannot be read');
  const name = derObjectIdentifier(contentOf(algorithm, oid));
  const found = known[name];
  if (found !== undefined) return found;
  const hash = name === RSASSA_PSS ? pssHash(parameters && contentOf(algorithm, parameters)) : undefined;
  // The hash of the mask is taken for the same, as RFC 4055 recommends; where it is another, nothing is verified.
  if (hash !== undefined) return madeBy('rsa', hash, undefined, constants.RSA_PKCS1_PSS_PADDING);
  return { weakness: name === RSASSA_PSS ? 'RSASSA-PSS with SHA-1' : name, isOf: () => false };
}

function pssHash(parameters: Buffer | undefined): string | undefined {
  if (parameters === undefined) return undefined;
  const named = derElements(parameters).find(({ tag }) => tag === PSS_HASH);
  if (named === undefined) return undefined;
  const identifier = contentOf(parameters, named);
  const { start, end } = wholeElement(identifier, derTag.sequence);
  const [oid] = derElements(identifier, start, end);
  return oid && pssHashes[derObjectIdentifier(contentOf(identifier, oid))];
}
