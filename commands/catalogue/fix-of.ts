/**
 * The hint of an error: that of the cause, where it is known; else that of the TPM's or the service's own code where it
 * says more; else that of the error code.
 */
import { isErrorReason, type IotdmError } from '../../src/errors.ts';
import { decodeResponseCode, meaningOf } from '../../src/tpm/response-code.ts';
import { describeTbsCode } from '../../src/tpm/tbs-code.ts';
import { fixText, type Fix, type Situation } from './entry.ts';
import { ownCodes } from './own-codes.ts';
import { reasonEntries } from './reasons.ts';
import { provisioningFix } from './service-codes.ts';
import { tbsEntries } from './tbs-codes.ts';
import { tpmEntries } from './tpm-codes.ts';

export function fixOf(error: IotdmError): Fix {
  const fix = fixOfCause(error);
  return (situation) => [fixText(fix, situation), ...afterwards(error, situation)].join('; ');
}

function fixOfCause(error: IotdmError): Fix {
  const { responseCode, errorCode, reason } = error.details ?? {};
  if (isErrorReason(reason) && reasonEntries[reason].codes.includes(error.code)) {
    return reasonEntries[reason].fix;
  }
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

/** What is to be done besides, once the cause is mended. */
function afterwards({ code }: IotdmError, { details }: Situation): readonly string[] {
  const { reason, journal, interrupted, slot } = details;
  const steps: string[] = [];
  if (isErrorReason(reason) && typeof journal === 'string') {
    steps.push(`the same command then goes on where it stopped, by ${journal}`);
  }
  if (leavesSlot.test(code) && typeof interrupted === 'string' && typeof slot === 'number') {
    steps.push(`then finish what was begun in slot ${slot} with: iotdm slot repair ${slot}`);
  }
  return steps;
}

/** Failures that have nothing to do with what stands in the slot, and may have come in the middle of its change. */
const leavesSlot = /^(?:tpm-unavailable|network|interrupted)\./;

function responseFix(code: number, name: string): string | undefined {
  const ofWindows = describeTbsCode(code);
  return ofWindows === undefined ? tpmEntries[name]?.fix : tbsEntries[ofWindows.name].fix;
}
