/*
 * Installs what the demo, the lab and the tests need and this machine lacks: npm packages into the clone, swtpm and
 * tpm2-tools with apt. Uses nothing but Node.js itself, as it runs before anything is installed.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const quiet = process.env.CI !== 'true';

/** Programs that the lab starts or asks for a second opinion, and the Debian packages they come in. */
const programs = {
  swtpm: 'swtpm',
  swtpm_setup: 'swtpm-tools',
  tpm2_readpublic: 'tpm2-tools',
  openssl: 'openssl',
};

function fail(message, hint) {
  console.error(`setup: error: ${message}`);
  console.error(`setup: hint: ${hint}`);
  process.exit(1);
}

function isInstalled(program) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/bin'];
  return folders.some((folder) => folder !== '' && existsSync(join(folder, program)));
}

function checkNode() {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < 20) fail(`Node.js ${process.versions.node} is too old`, 'install Node.js 20 or later');
}

/** `npm ci`, when the packages in the clone are not those of the lock file. The cache stays in the clone too. */
function installPackages() {
  const lock = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  const stamp = join(root, 'node_modules', '.iotdm-lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return;
  console.error('setup: installing npm packages');
  const npm = process.env.npm_execpath;
  const args = [
    'ci',
    '--ignore-scripts',
    '--cache',
    join(root, '.npm-cache'),
    ...(quiet ? ['--loglevel=error'] : []),
  ];
  const run =
    npm !== undefined && /npm-cli\.c?js$/.test(npm)
      ? spawnSync(process.execPath, [npm, ...args], { cwd: root, stdio: ['ignore', 2, 2] })
      : spawnSync('npm', args, { cwd: root, stdio: ['ignore', 2, 2] });
  if (run.status !== 0) fail('npm ci failed', 'read what npm says above; it needs a package registry');
  writeFileSync(stamp, lock);
}

function installPrograms() {
  const missing = [...new Set(Object.keys(programs).filter((name) => !isInstalled(name)))];
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((name) => programs[name]))];
  const byHand = `apt-get install -y ${packages.join(' ')}`;
  if (!isInstalled('apt-get')) {
    fail(
      `${missing.join(', ')} not found, and there is no apt-get here`,
      `install them: on Debian and Ubuntu ${byHand}`,
    );
  }
  const sudo = process.getuid?.() === 0 ? [] : ['sudo', '-n'];
  if (sudo.length > 0 && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status !== 0) {
    fail(`${missing.join(', ')} not found, and installing needs root`, `run: sudo ${byHand}`);
  }
  console.error(`setup: installing ${packages.join(', ')} with apt-get`);
  try {
    apt(sudo, ['update', '-qq']);
    apt(sudo, ['install', '-y', '-qq', '--no-install-recommends', ...packages]);
  } catch {
    fail('apt-get failed', `read what it says above, then run: sudo ${byHand}`);
  }
}

function apt(sudo, args) {
  const [program, ...rest] = [...sudo, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', ...args];
  execFileSync(program, rest, { stdio: ['ignore', quiet ? 'ignore' : 2, 2] });
}

checkNode();
installPackages();
installPrograms();
