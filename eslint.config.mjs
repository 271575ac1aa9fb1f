import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/*
 * Direction of imports: bin → commands → src. Inside src, `station` composes the other folders; they do not know
 * each other. A vendor package is imported by one adapter only. The messages say why, so that whoever is
 * stopped by one knows where the code belongs instead.
 */

const vendors = {
  'tss.js': 'tss.js is imported by src/tpm/tss.ts only: everything else sees TpmCommands',
  'azure-iot-provisioning-service':
    'imported by src/dps/azure-service.ts only: everything else sees ProvisioningService',
  'azure-iot-http-base': 'imported by src/dps/azure-service.ts and src/dps/azure-http.ts only',
  'azure-iot-provisioning-device':
    'imported by src/dps/azure-registration*.ts only: everything else sees registerWithDps',
  'azure-iot-provisioning-device-http':
    'imported by src/dps/azure-registration*.ts only: everything else sees registerWithDps',
  'azure-iot-common': 'imported by src/dps/azure-service.ts only',
  '@azure/identity': 'imported by src/dps/entra.ts only, and that on demand: it is large',
  'https-proxy-agent': 'imported by src/dps/proxy-agent.ts only',
  koffi: 'koffi is imported by src/tpm/transports/tbs-library.ts only: everything else sees TbsLibrary',
  'csv-parse': 'csv-parse is imported by src/records/csv.ts only',
  '@peculiar/x509': 'imported by src/x509.ts only: everybody else calls its loadX509',
  qrcode: 'qrcode is imported by commands/shared/qr-code.ts only: it is presentation',
  chalk: 'chalk is imported by commands/shared/console.ts only: src has no terminal',
  ora: 'ora is imported by commands/shared/console.ts only: src has no terminal',
  commander: 'commander belongs to commands: src has no command line',
};

const adapters = {
  'src/tpm/tss.ts': ['tss.js'],
  'src/tpm/transports/tbs-library.ts': ['koffi'],
  'src/dps/azure-service.ts': ['azure-iot-provisioning-service', 'azure-iot-http-base', 'azure-iot-common'],
  'src/dps/azure-http.ts': ['azure-iot-http-base'],
  'src/dps/azure-registration.ts': ['azure-iot-provisioning-device', 'azure-iot-provisioning-device-http'],
  'src/dps/azure-registration-transport.ts': [
    'azure-iot-provisioning-device',
    'azure-iot-provisioning-device-http',
  ],
  'src/dps/entra.ts': ['@azure/identity'],
  'src/dps/proxy-agent.ts': ['https-proxy-agent'],
  'src/records/csv.ts': ['csv-parse'],
  'src/x509.ts': ['@peculiar/x509'],
};

const upward = [
  {
    group: ['**/commands/**', '**/bin/**'],
    message: 'src is the tool without a terminal: bin imports commands, commands import src, never back',
  },
];

const parts = ['tpm', 'slot', 'hub', 'dps', 'records', 'trust', 'emulator'];

/** The rule for one folder or file: which vendor packages and which other folders it may not import. */
function imports(allowedVendors, patterns) {
  return {
    'no-restricted-imports': [
      'error',
      {
        paths: Object.entries(vendors)
          .filter(([name]) => !allowedVendors.includes(name))
          .map(([name, message]) => ({ name, message, allowTypeImports: false })),
        patterns: [
          ...patterns,
          ...Object.entries(vendors)
            .filter(([name]) => !allowedVendors.includes(name))
            .map(([name, message]) => ({ group: [`${name}/*`], message })),
        ],
      },
    ],
  };
}

function siblingsOf(part) {
  return [
    {
      group: parts
        .filter((other) => other !== part)
        .map((other) => `**/${other}/**`)
        .concat('**/station/**'),
      message: `src/${part} does not know the other parts of src: compose them in src/station`,
    },
  ];
}

const sourceRestrictions = {
  'no-console': 'error',
  'no-restricted-properties': [
    'error',
    { object: 'process', property: 'exit', message: 'src throws IotdmError; bin sets the exit code' },
    { object: 'process', property: 'env', message: 'settings are read in commands/shared/settings.ts' },
    { object: 'process', property: 'argv', message: 'the command line is read in bin' },
    { object: 'process', property: 'stdout', message: 'src returns results; commands print them' },
    { object: 'process', property: 'stderr', message: 'src emits events; commands print them' },
  ],
};

export default defineConfig(
  { ignores: ['dist/', 'node_modules/', '.npm-cache/', '.iotdm/'] },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/explicit-module-boundary-types': 'error',
      'no-restricted-exports': ['error', { restrictDefaultExports: { direct: true } }],
    },
  },
  { files: ['src/**/*.ts'], rules: { ...sourceRestrictions, ...imports([], upward) } },
  ...parts.map((part) => ({
    files: [`src/${part}/**/*.ts`],
    rules: imports([], [...upward, ...siblingsOf(part)]),
  })),
  ...Object.entries(adapters).map(([file, allowed]) => ({
    files: [file],
    rules: imports(allowed, [...upward, ...siblingsOf(file.split('/')[1])]),
  })),
  {
    files: ['commands/**/*.ts'],
    rules: imports(
      ['commander'],
      [{ group: ['**/bin/**'], message: 'bin is the process: commands are called by it and do not know it' }],
    ),
  },
  {
    files: ['commands/shared/console.ts'],
    rules: imports(['commander', 'chalk', 'ora'], []),
  },
  {
    files: ['commands/shared/qr-code.ts'],
    rules: imports(['qrcode'], []),
  },
  {
    // The tests' runner awaits what describe() and it() return.
    files: ['test/**/*.ts'],
    rules: { '@typescript-eslint/no-floating-promises': 'off' },
  },
  {
    files: ['**/*.mjs'],
    languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } },
    rules: {},
  },
);
