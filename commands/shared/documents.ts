/** Lists of unknown length as JSON, written as they come: memory does not grow with the service. */
import type { Context } from './context.ts';

/** One JSON array, a document a line; or, as NDJSON, the lines alone. */
export async function printDocuments(
  context: Context,
  documents: AsyncIterable<object>,
  isNdjson: boolean,
): Promise<void> {
  if (isNdjson) {
    for await (const document of documents) {
      await context.print(`${JSON.stringify(document)}\n`);
      if (context.hasNoReader) return;
    }
    return;
  }
  let separator = '[\n';
  for await (const document of documents) {
    await context.print(`${separator}${JSON.stringify(document)}`);
    if (context.hasNoReader) return;
    separator = ',\n';
  }
  await context.print(separator === '[\n' ? '[]\n' : '\n]\n');
}
