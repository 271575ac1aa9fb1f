import { Option } from 'commander';
import { IotdmError } from '../../src/errors.ts';
import { parseSlotNumber } from '../../src/slot/layout.ts';
import {
  moduleSlotsProblem,
  parseAgentConfig,
  parseModuleSlot,
  type AgentConfig,
  type ModuleSlot,
} from '../../src/station/agent-config.ts';
import type { ModuleOutcome, ModulesOutcome, ModuleStatus } from '../../src/station/modules.ts';
import type { Context } from '../shared/context.ts';
import { hubCheckOf, hubCheckOptions, moduleHub, type HubCheckSettings } from '../shared/hub.ts';
import { CommandError, toFailure } from '../shared/failure.ts';
import {
  register,
  registrationOptions,
  registrationPlan,
  type RegistrationResult,
  type RegistrationSettings,
} from '../shared/registration.ts';
import { count, type Verb } from '../shared/verb.ts';

export interface ModuleProvisionOptions extends RegistrationSettings, HubCheckSettings {
  readonly deviceSlot?: string;
  readonly module?: readonly string[];
  readonly agentConfig?: string;
  readonly overwrite?: boolean;
}

export interface ModuleResult {
  readonly moduleId: string;
  readonly slot: number;
  /** Null on a dry run. */
  readonly status: ModuleStatus | null;
  /** Whether the hub did not have it before. */
  readonly created: boolean | null;
  readonly keyName: string | null;
  readonly code?: string;
  readonly message?: string;
  readonly hint?: string;
}

export interface ModuleProvisionResult {
  readonly deviceId: string | null;
  readonly hostName: string | null;
  readonly deviceSlot: number;
  readonly modules: readonly ModuleResult[];
  readonly failed: number;
  /** With --agent-config only. */
  readonly registration?: RegistrationResult;
  readonly dryRun?: true;
}

/** Far more than an agent's configuration has. */
const CONFIG_LIMIT_BYTES = 1_048_576;

export const moduleProvision: Verb<[], ModuleProvisionOptions, ModuleProvisionResult> = {
  name: 'provision',
  summary: 'create the identities of modules in the hub, and keep each in its slot',
  description:
    'Reads the identity of each module from the IoT Hub of the device, or creates it there, in the name of the device ' +
    'whose identity stands in --device-slot, and writes it into its slot. A module that stands in its slot with the ' +
    "right key is left alone, and what one module fails of does not undo another. --agent-config takes the Device Agent's " +
    'own file (dpsUri, dpsScopeId, deviceSlotNumber, dmModuleSlotNumber, dmModuleId, otherModuleIds) and registers the ' +
    'device first.',
  examples: [
    'iotdm module provision --device-slot 0 --module AppB=2 --module AppC=3',
    'iotdm module provision --agent-config AzureDeviceManagementClient.json',
  ],
  seeAlso: ['iotdm device register', 'iotdm slot list', 'iotdm slot verify'],
  settings: ['tpm', 'device', 'timeout', 'change', 'dry-run'],
  options: [
    new Option('--device-slot <n>', "slot with the device's identity (default: 0)"),
    new Option('--module <id=slot>', 'a module and the slot for it, any number of times').argParser(
      (value: string, before: readonly string[] | undefined) => [...(before ?? []), value],
    ),
    new Option('--agent-config <file>', "the Device Agent's configuration (- reads stdin)"),
    ...registrationOptions(),
    ...hubCheckOptions(),
    new Option('--overwrite', 'replace the identities that the slots hold, whatever they are'),
  ],
  async run(context, _args, options) {
    const plan = await readPlan(context, options);
    const check = plan.dps === undefined ? {} : await hubCheckOf(context, options);
    const hub = await moduleHub(context, options.hubHost);
    const slots = await context.openSlotsToChange();
    const overwrite = options.overwrite === true;
    const registration =
      plan.dps === undefined
        ? undefined
        : await register(context, { slots, slot: plan.deviceSlot, dps: plan.dps, overwrite, ...check });
    const done = registration === undefined ? {} : { registration };
    if (context.settings.dryRun)
      return { ...(await preview(context, plan, overwrite)), ...done, dryRun: true };

    const { provisionModules } = await import('../../src/station/modules.ts');
    const progress = await context.console.progress('Provisioning modules');
    let outcome: ModulesOutcome;
    try {
      outcome = await provisionModules({
        slots,
        deviceSlot: plan.deviceSlot,
        modules: plan.modules,
        overwrite,
        hub,
        now: context.host.clock,
        onEvent: ({ moduleId, slot }) => {
          progress.update(`Provisioning ${moduleId} into slot ${slot}`);
        },
      });
    } finally {
      progress.done();
    }
    const { deviceId, hostName } = outcome.device;
    const modules = outcome.modules.map((module) => toResult(module, context));
    const failed = modules.filter(({ status }) => status === 'failed').length;
    return orPartial(context, { deviceId, hostName, deviceSlot: plan.deviceSlot, modules, failed, ...done });
  },
  describe(result, { console: { style } }) {
    const { deviceId, hostName, deviceSlot, modules, dryRun } = result;
    const device =
      deviceId === null ? `the device in slot ${deviceSlot}` : `${deviceId} on ${hostName ?? '-'}`;
    if (dryRun === true) {
      return `Would provision ${count(modules.length, 'module')} of ${device}:\n${lines(modules)}`;
    }
    return `${style.green('✔')} ${count(modules.length, 'module')} of ${device} provisioned.\n${lines(modules)}`;
  },
};

interface Plan {
  readonly deviceSlot: number;
  readonly modules: readonly ModuleSlot[];
  /** To register first. */
  readonly dps?: Awaited<ReturnType<typeof registrationPlan>>;
}

async function readPlan(context: Context, options: ModuleProvisionOptions): Promise<Plan> {
  const config =
    options.agentConfig === undefined ? undefined : await readAgentConfig(context, options.agentConfig);
  const deviceSlot =
    options.deviceSlot === undefined ? (config?.deviceSlot ?? 0) : parseSlotNumber(options.deviceSlot);
  const modules = [...(config?.modules ?? []), ...(options.module ?? []).map(moduleOption)];
  const problem = moduleSlotsProblem(modules, deviceSlot);
  if (problem !== undefined) throw new IotdmError('usage.invalid', problem);
  if (config === undefined) {
    if (modules.length === 0) {
      throw new CommandError(
        'usage.invalid',
        'no module was given',
        'pass --module ID=SLOT, once for each, or --agent-config FILE',
      );
    }
    return { deviceSlot, modules };
  }
  const place = {
    ...(config.idScope === null ? {} : { idScope: config.idScope }),
    ...(config.deviceHost === null ? {} : { deviceHost: config.deviceHost }),
  };
  return { deviceSlot, modules, dps: await registrationPlan(context, options, place) };
}

async function readAgentConfig(context: Context, file: string): Promise<AgentConfig> {
  const bytes = await context.readInput(file, "the agent's configuration", CONFIG_LIMIT_BYTES);
  return parseAgentConfig(bytes.toString('utf8'));
}

function moduleOption(text: string): ModuleSlot {
  const module = parseModuleSlot(text);
  if (module === undefined) {
    throw new CommandError(
      'usage.invalid',
      `"${text}" is no module with a slot`,
      'expected ID=SLOT with a slot from 0 to 9, such as --module AppB=2',
    );
  }
  return module;
}

async function preview(
  context: Context,
  { deviceSlot, modules }: Plan,
  overwrite: boolean,
): Promise<ModuleProvisionResult> {
  const [{ checkModuleSlot, readDevice }, slots] = await Promise.all([
    import('../../src/station/modules.ts'),
    context.openSlotsToChange(),
  ]);
  const device = await readDevice(slots, deviceSlot).catch((error: unknown) => {
    // It would be there once the device is registered.
    if (error instanceof IotdmError && error.code === 'tpm.slot-empty') return undefined;
    throw error;
  });
  for (const module of modules) {
    const identity = { hostName: '-', deviceId: '-', ...device, moduleId: module.moduleId };
    await checkModuleSlot({ slots, overwrite }, module, identity);
  }
  return {
    deviceId: device?.deviceId ?? null,
    hostName: device?.hostName ?? null,
    deviceSlot,
    modules: modules.map(({ moduleId, slot }) => ({
      moduleId,
      slot,
      status: null,
      created: null,
      keyName: null,
    })),
    failed: 0,
  };
}

function toResult({ error, ...outcome }: ModuleOutcome, context: Context): ModuleResult {
  if (error === undefined) return outcome;
  const { code, message, hint } = toFailure(error, context.command);
  return { ...outcome, code, message, hint };
}

/** Failed modules end in an error; for scripts, all that was done is on stdout as well. */
async function orPartial(context: Context, result: ModuleProvisionResult): Promise<ModuleProvisionResult> {
  const { failed, modules } = result;
  if (failed === 0) return result;
  if (context.settings.json) await context.print(`${JSON.stringify(result, null, 2)}\n`);
  else context.host.stderr.write(lines(modules));
  throw new CommandError(
    'partial.rows-failed',
    `${failed} of ${count(modules.length, 'module')} failed`,
    'mend what is named for each and run the same command again: modules that are done are left alone',
    { failed, total: modules.length, failures: modules.filter(({ status }) => status === 'failed') },
  );
}

function lines(modules: readonly ModuleResult[]): string {
  const width = Math.max(0, ...modules.map(({ moduleId }) => moduleId.length));
  return modules
    .map(({ moduleId, slot, status, created, message, hint }) => {
      const what = status === 'written' && created === true ? 'created and written' : (status ?? '');
      const why = message === undefined ? '' : `: ${message}; ${hint ?? ''}`;
      return `  ${moduleId.padEnd(width)}  slot ${slot}  ${what}${why}`.trimEnd() + '\n';
    })
    .join('');
}
