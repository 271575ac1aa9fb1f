/** Announces an enrollment in the index of identities, says so, and waits to be killed before it sends anything. */
import { IdentityIndex } from '../../src/station/identity-index.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';

const [, , stateDirectory = '', deviceId = ''] = process.argv;
const nobody = (): never => {
  throw new Error('nothing is sent from here');
};
const index = await IdentityIndex.open(
  { stateDirectory, host: 'memory', maxAgeMs: Infinity, now: Date.now, signal: new AbortController().signal },
  { pages: nobody, find: nobody },
);
await index.guard('create', { enrollment: fakeEnrollment(1, { deviceId }) }, async () => {
  process.stdout.write('announced\n');
  await new Promise((resolve) => setTimeout(resolve, 60_000));
});
