/** The steps of a provisioning, one after the other: timed, watched, and ended by the first one that fails. */
import { IotdmError } from '../../errors.ts';
import type { Budget } from './budget.ts';

/** In the order in which they are taken. */
export const stepNames = ['check', 'harvest', 'enroll', 'register', 'modules', 'prove', 'record'] as const;

export type StepName = (typeof stepNames)[number];

export function isStepName(value: unknown): value is StepName {
  return (stepNames as readonly unknown[]).includes(value);
}

/**
 * `done`: something was done. `unchanged`: it was looked at, and all is as it should be. `planned`: it would be done, on
 * a dry run. `skipped`: left out, as asked for or because there is nothing to do it with.
 */
export type StepStatus = 'done' | 'unchanged' | 'planned' | 'skipped' | 'failed';

export interface StepReport {
  readonly step: StepName;
  readonly status: StepStatus;
  /** Whole milliseconds. */
  readonly elapsedMs: number;
}

export interface StepOutcome {
  readonly status: Exclude<StepStatus, 'failed'>;
  /** For people, in lower case and without a full stop. */
  readonly detail: string;
}

export interface Step {
  readonly name: StepName;
  run(): Promise<StepOutcome>;
}

export type StepEvent =
  | { readonly kind: 'begun'; readonly step: StepName }
  | ({ readonly kind: 'ended'; readonly detail: string } & StepReport);

export interface StepsOptions {
  readonly skip: ReadonlySet<StepName>;
  readonly budget: Budget;
  /** Aborted: no step is begun any more. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: StepEvent) => void;
}

export interface StepsRun {
  /** As far as it came, the step that failed included. */
  readonly steps: readonly StepReport[];
  /** What ended it early. */
  readonly failure?: IotdmError;
}

/** Takes the steps until one fails. @throws what is no IotdmError */
export async function runSteps(steps: readonly Step[], options: StepsOptions): Promise<StepsRun> {
  const reports: StepReport[] = [];
  for (const [index, step] of steps.entries()) {
    const left = steps.slice(index).map(({ name }) => name);
    const { report, failure } = await runStep(step, options, left);
    reports.push(report);
    if (failure !== undefined) return { steps: reports, failure };
  }
  return { steps: reports };
}

/** Takes one step. @param left it and what follows it, for whoever runs out of time */
export async function runStep(
  step: Step,
  { skip, budget, signal, onEvent }: StepsOptions,
  left: readonly StepName[] = [step.name],
): Promise<{ readonly report: StepReport; readonly failure?: IotdmError }> {
  const { name } = step;
  const began = performance.now();
  const ended = (status: StepStatus, detail: string): StepReport => {
    const report = { step: name, status, elapsedMs: Math.round(performance.now() - began) };
    onEvent?.({ kind: 'ended', ...report, detail });
    return report;
  };
  if (skip.has(name)) return { report: ended('skipped', 'left out') };
  onEvent?.({ kind: 'begun', step: name });
  try {
    if (signal?.aborted === true) throw new IotdmError('interrupted.signal', 'interrupted');
    budget.check(left);
    const { status, detail } = await step.run();
    return { report: ended(status, detail) };
  } catch (error) {
    if (!(error instanceof IotdmError)) throw error;
    const failure = signal?.aborted === true ? error : budget.explain(error, left);
    return { report: ended('failed', failure.message), failure };
  }
}
