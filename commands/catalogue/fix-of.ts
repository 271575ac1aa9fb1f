/** The hint of an error: that of the TPM's or the service's own code where it says more, else that of the error code. */
import type { IotdmError } from '../../src/errors.ts';
import { decodeResponseCode, meaningOf } from '../../src/tpm/response-code.ts';
import { describeTbsCode } from '../../src/tpm/tbs-code.ts';
import type { Fix } from './entry.ts';
import { ownCodes } from './own-codes.ts';
import { provisioningFix } from './service-codes.ts';
import { tbsEntries } from './tbs-codes.ts';
import { tpmEntries } from './tpm-codes.ts';

export function fixOf(error: IotdmError): Fix {
  const { responseCode, errorCode } = error.details ?? {};
  if (typeof responseCode === 'string' && /^0x[0-9a-f]{1,8}$/.test(responseCode)) {
    const decoded = decodeResponseCode(Number(responseCode));
    const fix = responseFix(Number(responseCode), decoded.name);
    // An error that was given another code meanwhile is about more than the response.
    if (fix !== undefined && meaningOf(decoded)[0] === error.code) return fix;
  }
  if (typeof errorCode === 'number') {
    const found = provisioningFix(errorCode);
    if (found?.errorCode === error.code) return found.fix;
  }
  return ownCodes[error.code].fix;
}

function responseFix(code: number, name: string): string | undefined {
  const ofWindows = describeTbsCode(code);
  return ofWindows === undefined ? tpmEntries[name]?.fix : tbsEntries[ofWindows.name].fix;
}
