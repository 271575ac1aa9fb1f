/** From a code as people paste it to all that it may be. */
import { isErrorCode, errorCodes, type ErrorCode } from '../../src/errors.ts';
import { hex32 } from '../../src/encoding.ts';
import { nearest } from '../../src/nearest.ts';
import {
  decodeResponseCode,
  describeResponseCode,
  meaningOf,
  responseCodeNumbers,
} from '../../src/tpm/response-code.ts';
import { describeTbsCode, tbsCodes } from '../../src/tpm/tbs-code.ts';
import { fixText, type Entry, type Explanation, type Kind } from './entry.ts';
import { exitCodeOf, exitCodeOfName, exitCodes } from './exit-codes.ts';
import { ownCodes } from './own-codes.ts';
import { isFailureStatus, knownServiceCodes, serviceEntries, statusEntry } from './service-codes.ts';
import { isSystemErrorName, systemError, systemErrorNames, systemErrorOfNumber } from './system-errors.ts';
import { tbsEntries } from './tbs-codes.ts';
import { tpmEntries } from './tpm-codes.ts';
import { tssMessages } from './tss-messages.ts';

/** A pasted page of a log is not searched to its end. */
const LONGEST_INPUT = 4000;

const LARGEST_TPM_CODE = 0xfff;

/**
 * Explains a number (hexadecimal or decimal), a name, an exit code, or the first codes that stand in a pasted message.
 * @returns all that it may be, the likeliest first; nothing where it is no code
 */
export function explain(text: string): readonly Explanation[] {
  const input = text.trim().slice(0, LONGEST_INPUT);
  const whole = explainWhole(input);
  return whole.length > 0 ? whole : explainMessage(input);
}

/** The known code that comes nearest to what was typed. */
export function nearestCode(text: string): string | undefined {
  const names = [
    ...responseCodeNumbers.keys(),
    ...tbsCodes.flatMap((code) => describeTbsCode(code)?.name ?? []),
    ...systemErrorNames,
    ...errorCodes,
    ...knownServiceCodes,
  ];
  return text.length > 60 ? undefined : nearest(text.trim(), names);
}

function explainWhole(input: string): readonly Explanation[] {
  const exit = /^exit(?:[\s-]*(?:code|status))?[\s:=]*(\d{1,3})$/i.exec(input)?.[1];
  if (exit !== undefined) return exitExplanations(Number(exit));
  const errno = /^errno[\s:=]*(\d{1,3})$/i.exec(input)?.[1];
  if (errno !== undefined) return errnoExplanations(Number(errno));
  const status = /^(?:http(?:\/[\d.]+)?|status)(?:[\s-]*(?:code|status))?[\s:=]*(\d{3})\b/i.exec(input)?.[1];
  if (status !== undefined && isFailureStatus(Number(status))) return [statusExplanation(Number(status))];
  if (/^-?\d{1,10}$/.test(input)) return explainDigits(input);
  const named = explainName(input);
  if (named.length > 0) return named;
  if (/^[0-9a-f]{3,8}h?$/i.test(input)) return numberExplanations(Number.parseInt(input, 16));
  return [];
}

/** Digits alone may be decimal or hexadecimal, a status, an exit code or an errno: every reading that means something. */
function explainDigits(digits: string): readonly Explanation[] {
  const number = Number(digits);
  if (/^[45]\d{5}$/.test(digits)) return serviceExplanations(number);
  const asHex = /^(?:\d{3}|\d{8})$/.test(digits) ? Number.parseInt(digits, 16) : undefined;
  const readings = [
    ...exitExplanations(number),
    ...errnoExplanations(number),
    ...(isFailureStatus(number) ? [statusExplanation(number)] : []),
    ...(isDefined(number) ? numberExplanations(number) : []),
    ...(asHex !== undefined && isDefined(asHex) ? numberExplanations(asHex) : []),
  ];
  return readings.length > 0 ? readings : numberExplanations(number);
}

function explainName(input: string): readonly Explanation[] {
  const lower = input.toLowerCase();
  if (isErrorCode(lower)) return [ownExplanation(lower)];
  const exit = exitCodeOfName(lower);
  if (exit !== undefined) return exitExplanations(exit);
  const upper = input.toUpperCase();
  if (isSystemErrorName(upper)) return [errnoExplanation(upper)];
  return [...tpmNameExplanations(upper), ...tbsNameExplanations(upper)];
}

/** The codes in a line of a log or an error message, in their order. */
function explainMessage(input: string): readonly Explanation[] {
  const found = new Map<string, Explanation>();
  const words =
    /\b0[xX][0-9a-fA-F]{1,8}\b|\b(?:TPM2?_(?:RC|E|20_E)|TBS_E)_\w+(?:\s*\((?:handle|session|parameter)\s\d{1,2}\))?|\b[45]\d{5}\b|\bE[A-Z0-9_]{2,}\b|\b[a-z-]+\.[a-z0-9-]+\b/g;
  for (const [word] of input.matchAll(words)) {
    for (const explanation of explainWord(word)) {
      found.set(`${explanation.kind} ${explanation.code} ${explanation.name}`, explanation);
    }
  }
  if (found.size > 0) return [...found.values()];
  return explainTssMessage(input);
}

function explainWord(word: string): readonly Explanation[] {
  if (/^0x/i.test(word)) return numberExplanations(Number(word));
  if (/^\d/.test(word)) return serviceExplanations(Number(word));
  return explainName(word);
}

/** `tpm:session(1):the authorization HMAC check failed …`, as tpm2-tools print it, also where it was cut short. */
function explainTssMessage(input: string): readonly Explanation[] {
  const parts = /\b(?:tpm|rmt):\s*(\w+)\(([\w.]+)\):\s*(.+)$/is.exec(input);
  const said = parts?.[3]?.trim().replace(/(?:…|\.\.\.)$/, '') ?? '';
  if (said.length < 8) return [];
  const name = tssMessages.find(([message]) => message.startsWith(said) || said.startsWith(message))?.[1];
  if (name === undefined) return [];
  const number = withSubject(responseCodeNumbers.get(name), parts?.[1] ?? '', Number(parts?.[2]));
  return number === undefined ? [] : numberExplanations(number);
}

/** The number of a code together with what it is about (Part 2, 6.6.2); without that where it cannot be about it. */
function withSubject(base: number | undefined, kind: string, index: number): number | undefined {
  if (base === undefined || base >= 0x100 || !Number.isInteger(index)) return base;
  switch (kind.toLowerCase()) {
    case 'parameter':
      return index >= 1 && index <= 15 ? base | 0x40 | (index << 8) : base;
    case 'session':
      return index >= 1 && index <= 7 ? base | 0x800 | (index << 8) : base;
    case 'handle':
      return index >= 1 && index <= 7 ? base | (index << 8) : base;
    default:
      return base;
  }
}

function tpmNameExplanations(upper: string): readonly Explanation[] {
  const parts =
    /^(?:TPM2?_)?(?:RC_|20_E_)?([A-Z][A-Z0-9_]*)(?:\s*\((HANDLE|SESSION|PARAMETER)\s(\d{1,2})\))?$/.exec(
      upper,
    );
  const base = responseCodeNumbers.get(`TPM_RC_${parts?.[1] ?? ''}`);
  const number = withSubject(base, parts?.[2] ?? '', Number(parts?.[3]));
  return number === undefined ? [] : numberExplanations(number);
}

function tbsNameExplanations(upper: string): readonly Explanation[] {
  const code = tbsCodes.find((candidate) => describeTbsCode(candidate)?.name === upper);
  return code === undefined ? [] : numberExplanations(code);
}

function isDefined(code: number): boolean {
  const number = code >>> 0;
  return !decodeResponseCode(number).name.startsWith('response code ') || tssLayer(number) !== undefined;
}

/** A number of the TPM, of Windows, or of tpm2-tss; negative ones are HRESULTs as some tools print them. */
function numberExplanations(given: number): readonly Explanation[] {
  if (!Number.isSafeInteger(given) || given > 0xffffffff || given < -0x80000000) return [];
  const code = given >>> 0;
  const ofWindows = describeTbsCode(code);
  if (ofWindows !== undefined) {
    const { cause, fix } = tbsEntries[ofWindows.name];
    return [explanation('tbs', hex32(code), ofWindows.name, { meaning: ofWindows.meaning, cause, fix })];
  }
  const decoded = decodeResponseCode(code);
  const entry = tpmEntries[decoded.name];
  if (entry !== undefined) {
    const about =
      decoded.about === undefined ? '' : `; the TPM objects to ${decoded.about.kind} ${decoded.about.index}`;
    const meaning = `${reporter(code)}${entry.meaning}${about}`;
    const fix = entry.fix ?? ownCodes[meaningOf(decoded)[0]].fix;
    return [
      explanation('tpm', shortHex(code), describeResponseCode(decoded), { meaning, cause: entry.cause, fix }),
    ];
  }
  if (code <= LARGEST_TPM_CODE)
    return [explanation('tpm', shortHex(code), 'not defined', undefinedCode(code))];
  const layer = tssLayer(code);
  if (layer !== undefined)
    return [explanation('tss', hex32(code), `tpm2-tss ${layer}`, tssEntry(layer, code))];
  if (code >>> 16 === 0x8028 && (code & 0xffff) <= LARGEST_TPM_CODE) {
    return [explanation('tbs', hex32(code), 'not defined', undefinedHresult(code & 0xffff))];
  }
  return [];
}

/** Who gives the TPM's code in place of the TPM. */
function reporter(code: number): string {
  if (code <= LARGEST_TPM_CODE) return '';
  return code >>> 16 === 0x8028
    ? 'reported by Windows as an HRESULT: '
    : 'from the resource manager in place of the TPM: ';
}

/** What Part 2, section 6.6.2 says of the form of a code that has no name. */
function undefinedCode(code: number): Entry {
  const fix = 'check the number; iotdm explain takes it in hexadecimal (0x18b) or decimal (395)';
  if ((code & 0x80) === 0 && (code & 0x100) === 0) {
    return {
      meaning: 'not defined by TPM 2.0; it has the form of a code of TPM 1.2',
      cause: 'a TPM 1.2, or a number that is no response code',
      fix,
    };
  }
  if ((code & 0x80) === 0 && (code & 0x400) !== 0) {
    return {
      meaning: "not defined by TPM 2.0: a code of the TPM's manufacturer",
      cause: 'something that this chip only reports',
      fix: "look it up in the manufacturer's documents; iotdm tpm info names the manufacturer",
    };
  }
  return {
    meaning: 'not defined by TPM 2.0',
    cause: 'a TPM of a later revision than this table, or a number that is no response code',
    fix,
  };
}

function undefinedHresult(code: number): Entry {
  return {
    meaning:
      code < 0x80
        ? 'a code of TPM 1.2, as Windows reports it'
        : "not defined: an HRESULT of Windows' TPM facility without a meaning known here",
    cause: code < 0x80 ? 'a machine with a TPM 1.2' : 'a Windows later than this table',
    fix: 'look at the TPM with tpm.msc, or Get-Tpm in PowerShell; DPS needs a TPM 2.0',
  };
}

/** TSS 2.0 Overview and Common Structures, section on response codes: which layer of the software stack speaks. */
const tssLayers: Readonly<Record<number, string>> = {
  6: 'fapi',
  7: 'esapi',
  8: 'sys',
  9: 'mu',
  10: 'tcti',
  12: 'resource manager',
};

function tssLayer(code: number): string | undefined {
  return tssLayers[code >>> 16];
}

function tssEntry(layer: string, code: number): Entry {
  return {
    meaning: `an error of the software stack tpm2-tss itself, in its layer ${layer} (error 0x${(code & 0xffff).toString(16)}), not an answer of the TPM`,
    cause:
      layer === 'tcti'
        ? 'the connection to the TPM: a wrong TCTI, no permission for the device, or a simulator that does not run'
        : 'a wrong parameter, or a fault below it that is named earlier in the output',
    fix: 'check TPM2TOOLS_TCTI or -T; the same TPM as iotdm sees it: iotdm tpm check',
  };
}

function exitExplanations(number: number): readonly Explanation[] {
  const found = exitCodes.find(([code]) => code === number);
  if (found === undefined) return [];
  const codes = errorCodes.filter((code) => exitCodeOf(code) === number);
  const success = codes.length === 0;
  return [
    explanation('exit', String(number), `exit code ${number}`, {
      meaning: found[1],
      cause: success ? 'there is no fault' : `one of ${codes.join(', ')}`,
      fix: success
        ? 'nothing is to be done'
        : 'the command says on stderr which one, and with --json as error.code; then: iotdm explain CODE',
    }),
  ];
}

function errnoExplanations(number: number): readonly Explanation[] {
  const name = systemErrorOfNumber(number);
  return name === undefined ? [] : [errnoExplanation(name)];
}

function errnoExplanation(name: Parameters<typeof systemError>[0]): Explanation {
  return explanation('errno', name, name, systemError(name));
}

function statusExplanation(status: number): Explanation {
  const { name, ...entry } = statusEntry(status);
  return explanation('http', String(status), name, entry);
}

function serviceExplanations(code: number): readonly Explanation[] {
  return serviceEntries(code).map(({ name, ...entry }) => explanation('dps', String(code), name, entry));
}

function ownExplanation(code: ErrorCode): Explanation {
  const { meaning, cause, fix } = ownCodes[code];
  return explanation('iotdm', code, code, {
    meaning: `${meaning} (exit code ${exitCodeOf(code)})`,
    cause,
    fix,
  });
}

function explanation(kind: Kind, code: string, name: string, { meaning, cause, fix }: Entry): Explanation {
  return { code, name, kind, meaning, cause, fix: fixText(fix) };
}

function shortHex(code: number): string {
  return code <= LARGEST_TPM_CODE ? `0x${code.toString(16).padStart(3, '0')}` : hex32(code);
}
