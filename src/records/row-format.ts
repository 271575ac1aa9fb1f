/** Which of the three row formats a file is in, by its content and, where that leaves a doubt, by its name. */
import { peek, readable, textOfHead } from './text-source.ts';

export type RowFormat = 'csv' | 'ndjson' | 'json';

export const rowFormats: readonly RowFormat[] = ['csv', 'ndjson', 'json'];

/** How much of a file is looked at: more than the first line of any manifest. */
const HEAD_BYTES = 64 * 1024;

/**
 * The format of a source, and the source again from its first byte.
 * @param encoding as for `readText`
 * @throws IotdmError `input.unreadable`
 */
export async function detectRowFormat(
  source: AsyncIterable<Buffer>,
  name: string,
  encoding?: string,
): Promise<{ format: RowFormat; whole: AsyncIterable<Buffer> }> {
  const { head, whole } = await peek(readable(source, name), HEAD_BYTES);
  return { format: rowFormatOf(name, head, encoding), whole };
}

/**
 * No CSV header begins with `[` or `{`, so those decide for JSON whatever the name says. An object is NDJSON when the
 * first line holds all of it, otherwise one of several indented objects.
 * @param head the first bytes of the file
 */
export function rowFormatOf(name: string, head: Buffer, encoding?: string): RowFormat {
  const text = textOfHead(head, encoding).trimStart();
  const named = formatOfName(name);
  if (text.startsWith('[')) return named === 'ndjson' ? 'ndjson' : 'json';
  if (text.startsWith('{')) {
    if (named === 'ndjson') return 'ndjson';
    return isJson(text.split('\n', 1)[0] ?? '') || !text.includes('\n') ? 'ndjson' : 'json';
  }
  return named ?? 'csv';
}

function formatOfName(name: string): RowFormat | undefined {
  const extension = /\.([^./\\]+)$/.exec(name)?.[1]?.toLowerCase();
  if (extension === 'csv' || extension === 'json' || extension === 'ndjson') return extension;
  return extension === 'jsonl' ? 'ndjson' : undefined;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
