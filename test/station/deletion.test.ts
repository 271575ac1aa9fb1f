/** What `--mode delete` deletes, and what it leaves alone: only the enrollment that a row stands for. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Enrollment } from '../../src/dps/enrollment.ts';
import { Governor } from '../../src/dps/governor.ts';
import { IotdmError } from '../../src/errors.ts';
import { ImportJournal } from '../../src/records/import-journal.ts';
import { DeletionPlan } from '../../src/station/deletion-plan.ts';
import type { DeletionTarget } from '../../src/station/enrollment-rows.ts';
import type { PlannedRow, PlanTotals } from '../../src/station/import-plan.ts';
import { Requests } from '../../src/station/import-requests.ts';
import { deleteEnrollments, type DeletionOptions, type ImportSummary } from '../../src/station/import.ts';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService, refusal } from '../fakes/memory-service.ts';
import { repeatableRandom, VirtualTime } from '../fakes/virtual-time.ts';

const cut = (): IotdmError => new IotdmError('network.unavailable', 'the connection was cut');

function fleet(count: number): Enrollment[] {
  return Array.from({ length: count }, (_, index) => fakeEnrollment(index + 1));
}

/** A service that holds these, of whichever kind they are; its log begins behind that. */
async function holding(...enrollments: readonly object[]): Promise<MemoryService> {
  const service = new MemoryService();
  for (const enrollment of enrollments) await service.create(enrollment as Enrollment);
  service.log.length = 0;
  return service;
}

function rowsOf(targets: readonly DeletionTarget[]): DeletionOptions['rows'] {
  return async function* () {
    for (const [index, enrollment] of targets.entries()) {
      await Promise.resolve();
      yield [{ line: index + 2, enrollment }];
    }
  };
}

function inVirtualTime(): { readonly governor: Governor; readonly time: VirtualTime } {
  const time = new VirtualTime();
  const { clock, delay } = time;
  return {
    time,
    governor: new Governor({ ratePerMinute: Infinity, clock, delay, random: repeatableRandom() }),
  };
}

async function run(
  service: MemoryService,
  targets: readonly DeletionTarget[],
  more: Partial<DeletionOptions> = {},
): Promise<ImportSummary> {
  const { governor } = inVirtualTime();
  return deleteEnrollments({ rows: rowsOf(targets), total: targets.length, service, governor, ...more });
}

async function planned(
  service: MemoryService,
  targets: readonly DeletionTarget[],
  { force = false, isByIdOnly = false } = {},
): Promise<{ readonly rows: readonly PlannedRow[]; readonly totals: PlanTotals }> {
  const requests = new Requests({
    service,
    governor: inVirtualTime().governor,
    concurrency: 4,
    bulkCost: 'enrollment',
    giveUpAfterMs: 1000,
    signal: new AbortController().signal,
  });
  const plan = new DeletionPlan({
    rows: rowsOf(targets),
    total: targets.length,
    force,
    isByIdOnly,
    requests,
    concurrency: 4,
    ratePerMinute: 100,
  });
  const rows: PlannedRow[] = [];
  for await (const row of plan.rows()) rows.push(row);
  return { rows, totals: plan.totals() };
}

/** The counts that are not zero. */
function counts({ deleted, failed, skipped }: ImportSummary): Record<string, number> {
  return Object.fromEntries(Object.entries({ deleted, failed, skipped }).filter(([, n]) => n > 0));
}

const sent = (service: MemoryService, operation: string): number =>
  service.log.filter((request) => request.operation === operation).length;

const x509 = (registrationId: string, ...thumbprints: string[]): object => {
  const certificate = (sha256Thumbprint = '') => ({ info: { sha256Thumbprint } });
  const [primary, secondary] = thumbprints;
  const clientCertificates = {
    primary: certificate(primary),
    ...(secondary === undefined ? {} : { secondary: certificate(secondary) }),
  };
  return { registrationId, attestation: { type: 'x509', x509: { clientCertificates } } };
};
const symmetricKey = (registrationId: string): object => ({
  registrationId,
  attestation: { type: 'symmetricKey' },
});

describe('an enrollment that is not the one that is meant', () => {
  for (const count of [1, 120]) {
    it(`is a conflict, and stays, among ${count}, in the plan too`, async () => {
      const key = { type: 'tpm', tpm: { endorsementKey: syntheticEndorsementKey(9000) } } as const;
      for (const isVersioned of [false, true]) {
        for (const force of [false, true]) {
          const service = await holding(...fleet(count));
          const others = fleet(count).map(({ registrationId }) => ({
            registrationId,
            attestation: key,
            ...(isVersioned ? { etag: service.all.get(registrationId)?.etag ?? '' } : {}),
          }));
          const { rows, totals } = await planned(service, others, { force });
          assert.deepEqual([totals.conflict, totals.delete], [count, 0]);
          assert.deepEqual(rows[0], {
            line: 2,
            registrationId: 'device-0001',
            action: 'conflict',
            code: 'service.conflict',
            message: 'holds another endorsement key',
          });
          const summary = await run(service, others, { force });
          assert.deepEqual(counts(summary), { failed: count });
          const { code, message } = summary.failures[0] ?? {};
          assert.deepEqual([code, message], ['service.conflict', 'holds another endorsement key']);
          assert.equal(service.all.size, count);
          assert.equal(sent(service, 'delete') + sent(service, 'bulk delete'), 0);
        }
      }
    });
  }

  it('is told by its kind and by all certificates that a row has', async () => {
    const service = await holding(
      fakeEnrollment(1),
      x509('by-certificate', 'AA:BB', 'CC'),
      symmetricKey('by-key'),
    );
    const judge = async (...targets: readonly object[]): Promise<readonly string[]> => {
      const { rows } = await planned(service, targets as readonly DeletionTarget[]);
      return rows.map(({ action, message }) => message ?? action);
    };
    assert.deepEqual(
      await judge(
        fakeEnrollment(1),
        x509('device-0001', 'aabb'),
        symmetricKey('device-0001'),
        x509('by-certificate', 'aabb'),
        x509('by-certificate', 'CC', 'AABB'),
        x509('by-certificate', 'AABB', 'DD'),
        { registrationId: 'by-certificate', attestation: { type: 'x509' } },
      ),
      [
        'delete',
        'is enrolled with tpm attestation, not with x509 attestation',
        'is enrolled with tpm attestation, not with symmetricKey attestation',
        'delete',
        'delete',
        'is enrolled with other certificates',
        'delete',
      ],
    );
    assert.deepEqual(
      await judge(
        fakeEnrollment(7, { registrationId: 'by-certificate' }),
        fakeEnrollment(8, { registrationId: 'By-Key' }),
        symmetricKey('by-key'),
      ),
      [
        'is enrolled with x509 attestation, not with a TPM',
        'is enrolled with symmetricKey attestation, not with a TPM',
        'delete',
      ],
    );
  });

  it('is told by a certificate itself, of which nothing is known but that', async () => {
    const stored = {
      registrationId: 'one',
      attestation: {
        type: 'x509',
        x509: {
          clientCertificates: { primary: { info: { sha256Thumbprint: 'AABB', sha1Thumbprint: '01' } } },
          caReferences: { primary: 'our-ca' },
        },
      },
    };
    const service = await holding(stored);
    const problem = async (x509: unknown): Promise<string | undefined> => {
      const target = { registrationId: 'one', attestation: { type: 'x509', x509 } };
      return (await planned(service, [target])).rows[0]?.message;
    };
    const primary = (value: unknown) => ({ clientCertificates: { primary: value, secondary: null } });
    const other = 'is enrolled with other certificates';
    assert.equal(await problem({ caReferences: { primary: 'our-ca' } }), undefined);
    assert.equal(await problem({ caReferences: { secondary: 'their-ca' } }), other);
    assert.equal(await problem(primary({ info: { sha1Thumbprint: '01' } })), undefined);
    assert.equal(await problem(primary({ info: { sha1Thumbprint: '01', sha256Thumbprint: 'CC' } })), other);
    assert.equal(await problem(primary({ certificate: 'no certificate', info: null })), other);
    assert.equal(await problem(primary({ certificate: null, info: null })), undefined);
    assert.equal(await problem(null), undefined);
  });
});

describe('what a deletion costs', () => {
  it('is a page of a thousand and a request for each row, and nothing for what is not there', async () => {
    const service = await holding(...fleet(30));
    const targets = [...fleet(30).slice(10), ...fleet(60).slice(40)];
    const { totals } = await planned(service, targets);
    assert.deepEqual([totals.delete, totals.skip, totals.requests, totals.minutes], [20, 20, 1 + 20, 0.21]);
    service.log.length = 0;
    const summary = await run(service, targets);
    assert.deepEqual(counts(summary), { deleted: 20, skipped: 20 });
    assert.equal(summary.requests, totals.requests);
    assert.deepEqual([sent(service, 'list'), sent(service, 'delete')], [1, 20]);
  });

  it('is a look-up and a request for each of a few rows', async () => {
    const service = await holding(...fleet(3));
    const targets = fleet(4);
    const { totals } = await planned(service, targets);
    assert.equal(totals.requests, 4 + 3);
    const summary = await run(service, targets);
    assert.deepEqual(counts(summary), { deleted: 3, skipped: 1 });
    assert.equal(summary.requests, totals.requests);
  });

  it('is one request for each registration id alone, whatever is enrolled under it', async () => {
    const service = await holding(...fleet(20), x509('by-certificate', 'AA'));
    const targets = [
      ...fleet(25).map(({ registrationId }) => ({ registrationId })),
      { registrationId: 'by-certificate' },
    ];
    const { rows, totals } = await planned(service, targets, { isByIdOnly: true });
    assert.deepEqual([totals.delete, totals.skip, totals.requests], [21, 5, 26]);
    assert.equal(rows[25]?.action, 'delete');
    service.log.length = 0;
    const summary = await run(service, targets);
    assert.deepEqual(counts(summary), { deleted: 21, skipped: 5 });
    assert.equal(summary.requests, 26);
    assert.equal(sent(service, 'delete'), 26, 'nothing is looked up');
    assert.equal(service.all.size, 0);
  });
});

describe('somebody else', () => {
  /** Changes an enrollment before each of the first deletions of it arrives. */
  const racing = (service: MemoryService, times: number, change: (round: number) => Enrollment): void => {
    let round = 0;
    service.intercept = async ({ operation, ids }) => {
      if (operation !== 'delete' || ids[0] !== 'device-0002' || round >= times) return;
      round += 1;
      await service.replace(change(round), '*');
    };
  };

  for (const count of [3, 30]) {
    it(`who changes an enrollment after it was compared is heeded, unless it is forced (${count} rows)`, async () => {
      const theirs = (round: number) => fakeEnrollment(2, { deviceId: `theirs-${round}` });
      const service = await holding(...fleet(count));
      racing(service, 1, theirs);
      const summary = await run(service, fleet(count));
      assert.deepEqual(counts(summary), { deleted: count - 1, failed: 1 });
      assert.equal(summary.failures[0]?.code, 'service.changed-meanwhile');
      assert.equal(
        summary.failures[0].message,
        'was changed by somebody else meanwhile: it is not the version that was compared',
      );
      assert.equal(service.all.get('device-0002')?.deviceId, 'theirs-1');

      const forced = await holding(...fleet(count));
      racing(forced, 3, theirs);
      assert.deepEqual(counts(await run(forced, fleet(count), { force: true })), { deleted: count });
      racing(forced, Infinity, theirs);
      await forced.create(fakeEnrollment(2));
      assert.deepEqual(counts(await run(forced, fleet(2).slice(1), { force: true })), { failed: 1 });
    });
  }

  it('who enrolls another device under the id keeps that one, also when it is forced', async () => {
    for (const force of [false, true]) {
      const service = await holding(...fleet(3));
      racing(service, 1, () => fakeEnrollment(77, { registrationId: 'device-0002' }));
      const summary = await run(service, fleet(3), { force });
      assert.deepEqual(counts(summary), { deleted: 2, failed: 1 });
      assert.equal(summary.failures[0]?.message, 'holds another endorsement key');
      const left = service.all.get('device-0002');
      assert.equal(left?.attestation.tpm?.endorsementKey, syntheticEndorsementKey(77));
    }
  });

  it('who was faster has done the work', async () => {
    const service = await holding(...fleet(3));
    let isFirst = true;
    service.intercept = async ({ operation, ids }) => {
      if (operation !== 'delete' || ids[0] !== 'device-0002' || !isFirst) return;
      isFirst = false;
      await service.delete('device-0002');
    };
    assert.deepEqual(counts(await run(service, fleet(3))), { deleted: 2, skipped: 1 });
  });
});

describe('a service that cannot be relied upon', () => {
  it('refuses the version that it shows: the row fails after some pauses', async () => {
    for (const force of [false, true]) {
      const service = await holding(...fleet(2));
      service.intercept = ({ operation, ids }) => {
        assert.ok(service.requests < 50, 'far too many requests');
        if (operation === 'delete' && ids[0] === 'device-0001') throw refusal(412001, 'precondition failed');
      };
      const { governor, time } = inVirtualTime();
      const summary = await run(service, fleet(2), { governor, force });
      assert.deepEqual(counts(summary), { deleted: 1, failed: 1 });
      assert.equal(summary.failures[0]?.code, 'service.unexpected-answer');
      assert.ok(time.now > 1000, `${time.now} ms`);
    }
  });

  it('fails with one row again and again: the others are deleted', async () => {
    const service = await holding(...fleet(12));
    service.intercept = ({ operation, ids }) => {
      if (operation === 'delete' && ids[0] === 'device-0004') throw refusal(500001, 'it hurts');
    };
    async function* slowly(): AsyncGenerator<readonly { line: number; enrollment: DeletionTarget }[]> {
      for (const [index, enrollment] of fleet(12).entries()) {
        yield [{ line: index + 2, enrollment }];
        if (index > 5)
          for (let turn = 0; turn < 200; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      }
    }
    const { governor } = inVirtualTime();
    const summary = await deleteEnrollments({ rows: slowly, total: 12, service, governor });
    assert.deepEqual(counts(summary), { deleted: 11, failed: 1 });
    assert.deepEqual(summary.failures[0], {
      line: 5,
      registrationId: 'device-0004',
      code: 'network.unavailable',
      message: 'it hurts',
    });
  });

  it('lets nothing through: the whole ends with its reason, and no row is blamed', async () => {
    const service = await holding(...fleet(12));
    service.intercept = ({ operation }) => {
      if (operation === 'delete') throw refusal(500001, 'down');
    };
    await assert.rejects(run(service, fleet(12), { giveUpAfterMs: 60_000 }), (error: IotdmError) => {
      assert.equal(error.code, 'network.unavailable');
      assert.match(error.message, /^down; nothing got through for \d+ s$/);
      assert.equal(error.details?.['failed'], 0);
      return true;
    });
  });

  it('breaks off the list: the rest is looked up', async () => {
    const service = await holding(...fleet(1020));
    let pages = 0;
    service.intercept = ({ operation }) => {
      if (operation === 'list' && ++pages > 1) throw cut();
    };
    assert.deepEqual(counts(await run(service, fleet(1020), { concurrency: 16 })), { deleted: 1020 });
    assert.equal(sent(service, 'find'), 20);
  });

  it('cuts the answer and cannot be asked afterwards: the next run knows that it was sent', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'iotdm-deletion-'));
    try {
      for (const targets of [fleet(3), fleet(3).map(({ registrationId }) => ({ registrationId }))]) {
        const path = join(dir, `${targets[0] !== undefined && 'attestation' in targets[0]}`);
        const identity = { input: 'x', rows: 3, mode: 'delete', host: 'memory' };
        const service = await holding(...fleet(3));
        let isSent = false;
        service.interceptAnswer = ({ operation, ids }) => {
          if (operation !== 'delete' || ids[0] !== 'device-0002') return;
          isSent = true;
          throw cut();
        };
        service.intercept = ({ operation, ids }) => {
          if (operation === 'find' && ids[0] === 'device-0002' && isSent)
            throw new IotdmError('service.unexpected-answer', 'it is not valid JSON');
        };
        const journal = await ImportJournal.open(path, identity);
        const summary = await run(service, targets, { journal });
        await journal.close();
        assert.deepEqual(counts(summary), { deleted: 2, failed: 1 });
        assert.match(
          summary.failures[0]?.message ?? '',
          /^was sent, and what became of it cannot be looked up/,
        );

        service.intercept = () => undefined;
        service.interceptAnswer = () => undefined;
        const again = await ImportJournal.open(path, identity);
        assert.deepEqual(counts(await run(service, targets, { journal: again })), { deleted: 1, skipped: 2 });
        await again.close();
      }
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('is stopped: what is under way is finished, and an input that has changed is noticed', async () => {
    const service = await holding(...fleet(100));
    const stop = new AbortController();
    service.intercept = ({ operation }) => {
      if (operation === 'delete' && service.requests > 8) stop.abort();
    };
    await assert.rejects(run(service, fleet(100), { signal: stop.signal }), (error: IotdmError) => {
      assert.equal(error.code, 'interrupted.signal');
      assert.equal(Number(error.details?.['deleted']), 100 - service.all.size);
      return true;
    });
    for (const total of [1, 3]) {
      await assert.rejects(run(await holding(...fleet(2)), fleet(2), { total }), { code: 'input.changed' });
    }
  });
});
