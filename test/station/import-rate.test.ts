/** The pace of an import, in virtual time: against a service that counts operations in windows, as Azure's do. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Governor } from '../../src/dps/governor.ts';
import { IotdmError } from '../../src/errors.ts';
import { importEnrollments, type ImportOptions, type ImportSummary } from '../../src/station/import.ts';
import { fakeEnrollment } from '../fakes/enrollments.ts';
import { MemoryService } from '../fakes/memory-service.ts';
import { repeatableRandom, VirtualTime } from '../fakes/virtual-time.ts';

interface Station {
  readonly service: MemoryService;
  readonly time: VirtualTime;
  /** Each request's window of time, and what it counts as. */
  readonly sent: { readonly at: number; readonly cost: number }[];
}

interface Limit {
  readonly operations: number;
  readonly windowMs: number;
  /** Whether 429 says for how long. */
  readonly tells?: boolean;
  readonly countsRequests?: boolean;
  readonly latencyMs?: number;
}

/** Several stations may share the time and the limit. */
function limited(limit: Limit): () => Station {
  const time = new VirtualTime();
  let startedAt = -Infinity;
  let used = 0;
  return () => {
    const service = new MemoryService();
    const sent: { at: number; cost: number }[] = [];
    service.intercept = async ({ ids }) => {
      await time.delay((limit.latencyMs ?? 20) / 2);
      const cost = limit.countsRequests === true ? 1 : Math.max(1, ids.length);
      sent.push({ at: time.now, cost });
      if (time.now - startedAt >= limit.windowMs) {
        startedAt = time.now;
        used = 0;
      }
      const refused = used + cost > limit.operations;
      if (!refused) used += cost;
      await time.delay((limit.latencyMs ?? 20) / 2);
      if (!refused) return;
      service.throttled += 1;
      const retryAfterMs = Math.max(1, Math.ceil((startedAt + limit.windowMs - time.now) / 1000)) * 1000;
      const details = limit.tells === false ? { status: 429 } : { status: 429, retryAfterMs };
      throw new IotdmError('network.throttled', 'too many', { details });
    };
    return { service, time, sent };
  };
}

async function run(
  { service, time }: Station,
  count: number,
  ratePerMinute: number,
  more: Partial<ImportOptions> = {},
): Promise<ImportSummary & { readonly seconds: number }> {
  const startedAt = time.now;
  async function* rows() {
    for (let number = 1; number <= count; number += 1) {
      await Promise.resolve();
      yield [{ line: number + 1, enrollment: fakeEnrollment(number) }];
    }
  }
  const { clock, delay } = time;
  const governor = new Governor({ ratePerMinute, clock, delay, random: repeatableRandom() });
  const summary = await importEnrollments({ rows, total: count, service, mode: 'upsert', governor, ...more });
  return { ...summary, seconds: (time.now - startedAt) / 1000 };
}

const aHundredASecond: Limit = { operations: 100, windowMs: 1000 };

describe('an import at the rate that the service allows', () => {
  it('takes within 10 % of the ideal time, without a single refusal', async () => {
    const { seconds, created, throttled, requests } = await run(limited(aHundredASecond)(), 3000, 6000);
    assert.deepEqual({ created, throttled, requests }, { created: 3000, throttled: 0, requests: 300 });
    assert.ok(seconds < 33, `${seconds} s`);
    assert.ok(seconds >= 29.9, 'not faster than it may be');
  });

  it('by the minute, too, and with requests that count once', async () => {
    const perMinute = await run(limited({ operations: 1000, windowMs: 60_000 })(), 3000, 1000);
    assert.deepEqual([perMinute.created, perMinute.throttled], [3000, 0]);
    assert.ok(perMinute.seconds < 198, `${perMinute.seconds} s`);
    const byRequest = await run(
      limited({ operations: 200, windowMs: 60_000, countsRequests: true })(),
      6000,
      200,
      { bulkCost: 'request' },
    );
    assert.deepEqual([byRequest.created, byRequest.throttled], [6000, 0]);
    assert.ok(byRequest.seconds < 198, `${byRequest.seconds} s`);
  });

  it('is not faster when there is no need for it', async () => {
    const station = limited({ operations: 1_000_000, windowMs: 1000 })();
    await run(station, 3000, 6000);
    for (const { at } of station.sent) {
      const cost = station.sent
        .filter((other) => other.at >= at && other.at < at + 1000)
        .reduce((sum, other) => sum + other.cost, 0);
      assert.ok(cost <= 100, `${cost} operations in the second after ${at} ms`);
    }
  });

  it('has no limit of its own without one', async () => {
    const station = limited({ operations: 1_000_000, windowMs: 1000 })();
    const { seconds } = await run(station, 3000, Infinity);
    assert.ok(seconds < 2, `${seconds} s`);
  });
});

describe('an import that is ten times too fast', () => {
  for (const [name, limit, most] of [
    ['25 % of the ideal time, with retry-after', aHundredASecond, 37.5],
    ['25 % of it without', { ...aHundredASecond, tells: false }, 37.5],
    // Four requests at a time that take so long could hardly be faster.
    ['40 % of it with slow answers', { ...aHundredASecond, latencyMs: 300 }, 42],
  ] as const) {
    it(`takes within ${name}, and all arrives`, async () => {
      const station = limited(limit)();
      const { seconds, created, failed, throttled } = await run(station, 3000, 60_000);
      assert.deepEqual({ created, failed }, { created: 3000, failed: 0 });
      assert.ok(seconds < most, `${seconds} s, ${throttled} times refused`);
      assert.ok(throttled > 0);
      assert.ok(throttled < 40, `${throttled} times refused`);
    });
  }

  it('without any limit of its own learns the service’s', async () => {
    const { seconds, created } = await run(limited(aHundredASecond)(), 3000, Infinity);
    assert.equal(created, 3000);
    assert.ok(seconds < 37.5, `${seconds} s`);
  });

  it('is refused no more often at once than it has requests under way', async () => {
    const station = limited(aHundredASecond)();
    await run(station, 2000, Infinity, { concurrency: 3 });
    // A window lets ten requests pass; those behind them had left before the first refusal was heard.
    const windows = new Map<number, number>();
    for (const { at } of station.sent) {
      const window = Math.floor(at / 1000);
      windows.set(window, (windows.get(window) ?? 0) + 1);
    }
    assert.ok(Math.max(...windows.values()) <= 10 + 2 * 3, JSON.stringify([...windows]));
  });
});

describe('stations that share one limit', () => {
  it('all get through, none much later than its share of it', async () => {
    const next = limited(aHundredASecond);
    const stations = Array.from({ length: 4 }, next);
    const results = await Promise.all(stations.map((station) => run(station, 1000, 6000)));
    for (const { created, failed } of results) assert.deepEqual([created, failed], [1000, 0]);
    const slowest = Math.max(...results.map(({ seconds }) => seconds));
    assert.ok(slowest < 80, `${slowest} s where 40 s are the least`);
  });
});

describe('an import that gets nothing through', () => {
  it('ends when it was to give up, with the last reason', async () => {
    const station = limited({ operations: 0, windowMs: 1000 })();
    await assert.rejects(run(station, 100, 6000, { giveUpAfterMs: 120_000 }), (error: IotdmError) => {
      assert.equal(error.code, 'network.throttled');
      assert.match(error.message, /^too many; nothing got through for 12\d s$/);
      return true;
    });
    assert.ok(station.time.now >= 120_000 && station.time.now < 130_000, `${station.time.now} ms`);
  });
});
