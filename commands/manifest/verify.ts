import { checkManifests } from '../../src/station/manifest-check.ts';
import {
  faultLines,
  manifestTable,
  refusal,
  toResult,
  warnOf,
  type ManifestResult,
} from '../shared/manifest-check.ts';
import type { Verb } from '../shared/verb.ts';

export const manifestVerify: Verb<[string[]], object, ManifestResult> = {
  name: 'verify',
  arguments: [['<file...>', 'manifests of harvest; - reads stdin']],
  summary: 'verify that manifests are as they were written',
  description:
    'Verifies that every line follows from the one before it, that registration id, name and certificate of every ' +
    'record belong to its endorsement key, and that one chip and one serial number belong together across all files ' +
    'given. Changes nothing, and needs no TPM and no network.\n\n' +
    'The chain shows a change anywhere but at the end: a file that has lost its last lines is a shorter manifest that ' +
    'is in order. Note the number of records and the last hash at the end of a shift, and compare. Anyone who can ' +
    'write the file can also make the chain anew: it is no signature.',
  examples: [
    'iotdm manifest verify shift.ndjson',
    'iotdm manifest verify line-1.ndjson line-2.ndjson --json',
  ],
  seeAlso: ['iotdm manifest merge', 'iotdm harvest', 'iotdm enrollment import'],
  settings: [],
  async run(context, [files]) {
    const sources = files.map((file) => ({
      name: file === '-' ? '<stdin>' : file,
      open: () => context.openInput(file),
    }));
    const progress = await context.console.progress('Verifying');
    const check = await checkManifests(sources).finally(() => {
      progress.done();
    });
    warnOf(context, check);
    if (check.ok) return toResult(check);
    await context.print(
      context.settings.json ? `${JSON.stringify(toResult(check), null, 2)}\n` : faultLines(check),
    );
    throw refusal(check);
  },
  describe(result, { console: { style } }) {
    const files = result.files === 1 ? 'The manifest is' : `${result.files} manifests are`;
    return `${style.green('✔')} ${files} in order.\n${manifestTable(result)}`;
  },
};
