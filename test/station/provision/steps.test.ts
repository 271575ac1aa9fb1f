import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { IotdmError } from '../../../src/errors.ts';
import { Budget } from '../../../src/station/provision/budget.ts';
import {
  runSteps,
  type Step,
  type StepEvent,
  type StepName,
  type StepOutcome,
} from '../../../src/station/provision/steps.ts';

const done: StepOutcome = { status: 'done', detail: 'done' };

function step(name: StepName, run: () => Promise<StepOutcome> = () => Promise.resolve(done)): Step {
  return { name, run };
}

const none: ReadonlySet<StepName> = new Set();

describe('the steps', () => {
  it('are taken in order, those that are left out are said, and the first failure ends it', async () => {
    const events: StepEvent[] = [];
    const failure = new IotdmError('auth.refused', 'no');
    const run = await runSteps(
      [step('check'), step('harvest'), step('enroll', () => Promise.reject(failure)), step('register')],
      { skip: new Set<StepName>(['harvest']), budget: new Budget(), onEvent: (event) => events.push(event) },
    );
    assert.deepEqual(
      run.steps.map(({ step: name, status }) => [name, status]),
      [
        ['check', 'done'],
        ['harvest', 'skipped'],
        ['enroll', 'failed'],
      ],
    );
    assert.equal(run.failure, failure);
    assert.deepEqual(
      events.map((event) => `${event.kind} ${event.step}`),
      ['begun check', 'ended check', 'ended harvest', 'begun enroll', 'ended enroll'],
    );
  });

  it('end with what nobody foresaw', async () => {
    const bug = new TypeError('bug');
    const run = runSteps([step('check', () => Promise.reject(bug))], { skip: none, budget: new Budget() });
    await assert.rejects(run, bug);
  });

  it('are not begun any more once the line is interrupted', async () => {
    const interrupt = new AbortController();
    const first = step('check', () => {
      interrupt.abort();
      return Promise.resolve(done);
    });
    const run = await runSteps([first, step('harvest')], {
      skip: none,
      budget: new Budget(),
      signal: interrupt.signal,
    });
    assert.equal(run.failure?.code, 'interrupted.signal');
    assert.deepEqual(
      run.steps.map(({ status }) => status),
      ['done', 'failed'],
    );
  });
});

describe('a budget', () => {
  it('that is used up ends before the next step, and says what is left', async () => {
    let now = 0;
    const budget = new Budget(10, () => now);
    const slow = step('check', () => {
      now += 10_000;
      return Promise.resolve(done);
    });
    const run = await runSteps([slow, step('harvest'), step('enroll')], { skip: none, budget });
    assert.equal(run.failure?.code, 'network.budget');
    assert.match(run.failure.message, /the 10 s for this device are used up; left to do: harvest, enroll$/);
    assert.deepEqual(run.failure.details?.['left'], ['harvest', 'enroll']);
  });

  it('explains what failed for want of time, and nothing else', () => {
    let now = 0;
    const budget = new Budget(1, () => now);
    const timeout = new IotdmError('network.timeout', 'late');
    const refused = new IotdmError('auth.refused', 'no');
    assert.equal(budget.explain(timeout, []), timeout);
    now = 1000;
    assert.equal(budget.explain(timeout, []).code, 'network.budget');
    assert.equal(budget.explain(refused, []), refused);
    assert.equal(budget.leftMs, 0);
  });

  it('has one end, whichever of its timer and its clock comes first', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    let now = 0;
    const early = new Budget(1, () => now);
    now = 999.4;
    t.mock.timers.tick(1000);
    assert.equal(early.end?.aborted, true);
    assert.equal(early.leftMs, 0, 'the timer has rung, a moment before the clock');
    const cut = new IotdmError('interrupted.signal', 'cut');
    assert.equal(early.explain(cut, []).code, 'network.budget');
    assert.throws(() => {
      early.check(['prove']);
    }, /used up; left to do: prove$/);

    now = 0;
    const late = new Budget(1, () => now);
    now = 1000;
    assert.equal(late.leftMs, 0);
    assert.equal(late.end?.aborted, true, 'the clock says so, a moment before the timer');

    now = 0;
    const almost = new Budget(1, () => now);
    now = 999.2;
    const deadline = new IotdmError('network.timeout', 'not within 0.8 s');
    assert.equal(almost.explain(deadline, []).code, 'network.budget', 'a deadline of what was left');
    const waiting = almost.within(new Promise<never>(() => undefined));
    t.mock.timers.tick(1000);
    await assert.rejects(waiting, { code: 'network.budget' });
    await assert.rejects(almost.within(new Promise<never>(() => undefined)), { code: 'network.budget' });
  });

  it('ends a wait', async () => {
    const never = new Promise<never>(() => undefined);
    await assert.rejects(new Budget(0.01).within(never), { code: 'network.budget' });
    assert.equal(await new Budget(60).within(Promise.resolve(1)), 1);
    assert.equal(new Budget().leftMs, Number.POSITIVE_INFINITY);
  });
});
