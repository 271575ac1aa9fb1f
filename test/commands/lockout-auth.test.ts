import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { resolveSettings } from '../../commands/shared/settings.ts';
import { iotdm, scratchDirectory, softwareTpm } from '../lab/lab.ts';

describe('the lockout authorization value', () => {
  it('is a setting like those of the other hierarchies', async (t) => {
    const config = join(await scratchDirectory(t), 'config.json');
    await writeFile(config, JSON.stringify({ lockoutAuthFile: 'from-file' }));
    assert.equal(resolveSettings({ config }, {}).lockoutAuthFile, 'from-file');
    assert.equal(resolveSettings({ config, lockoutAuthFile: 'flag' }, {}).lockoutAuthFile, 'flag');
  });

  it('comes from a file, stdin or the environment, and a file that is not there is named', async (t) => {
    const { tcti } = await softwareTpm(t);
    const read = ['ek', 'read', '--json', '--tpm', tcti];
    const missing = await iotdm([...read, '--lockout-auth-file', '/nonexistent/lockout']);
    assert.equal(missing.code, 2);
    assert.match(missing.stderr, /the lockout authorization value/);
    assert.equal((await iotdm([...read, '--lockout-auth-file', '-'], { stdin: 'secret\n' })).code, 0);
    const environment = await iotdm([...read, '-vv'], { env: { IOTDM_LOCKOUT_AUTH: 'marked-secret' } });
    assert.equal(environment.code, 0);
    assert.doesNotMatch(environment.stdout + environment.stderr, /marked-secret/);
  });
});
