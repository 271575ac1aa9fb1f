/*
 * Bundles bin/iotdm.ts and all that it uses into dist/. The bundle is what is installed and published: it needs no
 * package at run time, so that nobody has to install tss.js (whose Windows dependencies no longer build), and it
 * starts two to three times as fast as the same code in many files.
 */
import { build } from 'esbuild';
import { chmod, readFile, rm, writeFile } from 'node:fs/promises';

const outdir = 'dist';
await rm(outdir, { recursive: true, force: true });

/** tss.js uses `new Buffer()`, which warns on stderr outside node_modules. Zero-filled or copied, as it was. */
const withoutDeprecatedBuffer = {
  name: 'without-deprecated-buffer',
  setup(builder) {
    builder.onLoad({ filter: /[\\/]tss\.js[\\/]lib[\\/].*\.js$/ }, async ({ path }) => {
      const source = await readFile(path, 'utf8');
      const construct = '((v) => (typeof v === "number" ? Buffer.alloc(v) : Buffer.from(v)))';
      return { contents: source.replaceAll(/\bnew Buffer\(/g, `${construct}(`), loader: 'js' };
    });
  },
};

const result = await build({
  entryPoints: ['bin/iotdm.ts'],
  outdir,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  minifySyntax: true,
  legalComments: 'none',
  metafile: true,
  plugins: [withoutDeprecatedBuffer],
  // Only tss.js's own Windows device asks for the first four, and iotdm does not use it; koffi is native code.
  external: ['ffi-napi', 'ref-napi', 'ref-struct-di', 'ref-array-di', 'koffi'],
  banner: {
    js: "import { createRequire as createRequireForBundle } from 'node:module'; const require = createRequireForBundle(import.meta.url);",
  },
  logLevel: 'warning',
});
await chmod(`${outdir}/iotdm.js`, 0o755);
// A copy of the folder runs too, also under a name without an extension.
await writeFile(`${outdir}/package.json`, '{ "type": "module" }\n');
await writeFile(`${outdir}/THIRD-PARTY-LICENSES.txt`, await licenses(Object.keys(result.metafile.inputs)));

/** The licence texts of all packages in the bundle, as their licences ask. */
async function licenses(inputs) {
  const folders = new Set(
    inputs
      .map((input) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1])
      .filter((folder) => folder !== undefined),
  );
  const texts = [];
  for (const folder of [...folders].sort()) {
    const { name, version, license } = JSON.parse(await readFile(`${folder}/package.json`, 'utf8'));
    let text = '';
    for (const file of ['LICENSE', 'LICENSE.md', 'LICENSE.txt', 'license', 'LICENCE', 'license.md']) {
      text = await readFile(`${folder}/${file}`, 'utf8').catch(() => '');
      if (text !== '') break;
    }
    texts.push(
      `${name} ${version} (${typeof license === 'string' ? license : 'see text'})\n\n${text.trim()}\n`,
    );
  }
  return texts.join(`\n${'-'.repeat(78)}\n\n`);
}
