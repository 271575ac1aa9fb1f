/**
 * Connection strings of Azure's services as they come to hand: in quotes, with blanks, in the JSON of the Azure CLI, cut
 * short by a shell, with misspelt names. What the fields mean is for those to say whose string it is.
 */
import { nearest } from './nearest.ts';

const quotes: readonly (readonly [string, string])[] = [
  ['"', '"'],
  ["'", "'"],
  ['`', '`'],
  ['“', '”'],
  ['„', '“'],
  ['‘', '’'],
];

/** The string itself: without the white space, quotes and JSON around it. */
export function plainConnectionString(text: string): string {
  let plain = text.trim();
  if (plain.startsWith('{')) plain = memberOf(plain)?.trim() ?? plain;
  for (;;) {
    const inside = withoutQuotes(plain);
    if (inside === plain) return plain;
    plain = inside.trim();
  }
}

/** What `az … connection-string show` prints. */
function memberOf(json: string): string | undefined {
  try {
    const { connectionString } = JSON.parse(json) as Readonly<Record<string, unknown>>;
    return typeof connectionString === 'string' ? connectionString : undefined;
  } catch {
    return undefined;
  }
}

function withoutQuotes(text: string): string {
  const isQuoted = quotes.some(
    ([begin, end]) => text.length > 1 && text.startsWith(begin) && text.endsWith(end),
  );
  return isQuoted ? text.slice(1, -1) : text;
}

/** The value of a field without white space and `"` around it, neither of which any value holds. */
export function plainValue(text: string): string {
  const value = text.trim();
  return value.length > 1 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1).trim() : value;
}

/** A key that was copied from a narrow terminal has white space in it; its characters are those of base64. */
export function plainKey(value: string): string {
  return value.replaceAll(/\s/g, '');
}

/** The field that a name was meant to be. The name is safe to repeat then: no key is that near to a field's name. */
export function meantField<Name extends string>(typed: string, names: readonly Name[]): Name | undefined {
  const name = typed.trim();
  return /^[A-Za-z0-9_ -]{1,30}$/.test(name) ? nearest(name.replaceAll(/[ _-]/g, ''), names, 3) : undefined;
}

/** Those before the key, one of which stands first. */
const leadingFields = ['HostName', 'DeviceId', 'SharedAccessKeyName'];

/** What is wrong with a string as a whole, in place of what its fields lack; undefined where nothing is. */
export function connectionStringProblem(plain: string): string | undefined {
  if (plain.includes('\0')) return 'is in UTF-16 without a byte order mark: save it as UTF-8';
  if (/^["'`“”„‘’]/.test(plain)) return 'begins with a quote that does not end it';
  const [, only = ''] = /^(\w+)\s*=[^;]*;?$/.exec(plain) ?? [];
  const first = leadingFields.find((name) => name.toLowerCase() === only.toLowerCase());
  if (first !== undefined) {
    return `ends after its ${first}: without quotes around it, a shell takes its first ; for the end of the command`;
  }
  if (/^Endpoint\s*=\s*sb:/i.test(plain)) return 'is that of an Event Hub or a Service Bus';
  if (/^(?:DefaultEndpointsProtocol|AccountName|BlobEndpoint)\s*=/i.test(plain))
    return 'is that of a storage account';
  return undefined;
}
