/** What a provisioning costs: TPM commands by step, requests, and the time that goes neither into the TPM nor the service. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { provisionDevice } from '../../../src/station/provision/device.ts';
import type { StepName } from '../../../src/station/provision/steps.ts';
import { fakeEnrollment } from '../../fakes/enrollments.ts';
import { emulator, scratchDirectory, softwareTpm } from '../../lab/lab.ts';
import { testJob, testLine } from '../../lab/line.ts';

/** Far above what it takes on a machine that is not busy with other tests: about 0.1 s. */
const OVERHEAD_LIMIT_MS = 3000;

it('is what docs/ARCHITECTURE.md says, the first time and again', async (t) => {
  const chip = await softwareTpm(t);
  const service = await emulator(t);
  const dir = await scratchDirectory(t);
  const rounds = [
    // One of them reads the enrollments of the service, of which there are none.
    { check: 21, harvest: 5, enroll: 2, register: 31, modules: 21, prove: 6, record: 0, requests: 9 + 1 },
    { check: 25, harvest: 5, enroll: 3, register: 3, modules: 10, prove: 3, record: 0, requests: 4 },
  ];
  for (const { requests: expectedRequests, ...expected } of rounds) {
    const counts: Partial<Record<StepName, number>> = {};
    let [commands, requests, elsewhereMs] = [0, 0, 0];
    const line = testLine({
      dir,
      service,
      transport: () => chip.transport(),
      tpmOptions: {
        onCommand: ({ elapsedMs }) => {
          commands += 1;
          elsewhereMs += elapsedMs;
        },
      },
      onRequest: (elapsedMs) => {
        requests += 1;
        elsewhereMs += elapsedMs;
      },
    });
    let before = 0;
    const began = performance.now();
    const result = await provisionDevice(
      testJob({
        onEvent: (event) => {
          if (event.kind === 'begun') before = commands;
          else counts[event.step] = commands - before;
        },
      }),
      line,
    );
    const overheadMs = performance.now() - began - elsewhereMs;
    line.close();
    assert.ok(result.passed, result.failure?.message);
    t.diagnostic(`${commands} commands, ${requests} requests, ${overheadMs.toFixed(0)} ms outside both`);
    assert.deepEqual(counts, expected);
    assert.equal(requests, expectedRequests);
    assert.ok(overheadMs < OVERHEAD_LIMIT_MS, `${overheadMs.toFixed(0)} ms`);
  }
});

it('gives no device a device id that another enrollment has', async (t) => {
  const chip = await softwareTpm(t);
  const service = await emulator(t);
  const dir = await scratchDirectory(t);
  const line = testLine({ dir, service, transport: () => chip.transport() });
  const [dps, index] = await Promise.all([line.service?.(), line.index?.()]);
  assert.ok(dps !== undefined && index !== undefined);
  const enrollment = fakeEnrollment(1, { deviceId: 'press-9' });
  await index.guard('create', { enrollment }, () => dps.create(enrollment));
  const labels = { ...testJob().labels, deviceId: 'press-9' };
  const parts: Record<string, unknown> = { ...line };
  delete parts['index'];
  for (const job of [testJob({ labels, dryRun: true }), testJob({ labels })]) {
    const refused = await provisionDevice(job, line);
    assert.equal(refused.failure?.code, 'service.conflict');
    assert.match(
      refused.failure.message,
      /^\w{52} would have the device id "press-9" of the enrollment device-0001$/,
    );
    assert.deepEqual(refused.steps.at(-2)?.status, 'failed');
    assert.equal(refused.identityCompared, true);
  }
  assert.equal(service.requests.filter((request) => request.startsWith('PUT ')).length, 1, 'the other one');
  // Without the comparison, and said so.
  const skip = new Set<StepName>(['register', 'modules', 'prove']);
  const enrolled = await provisionDevice(testJob({ labels, skip }), parts as unknown as typeof line);
  assert.deepEqual([enrolled.passed, enrolled.identityCompared], [true, false]);
  line.close();
});
