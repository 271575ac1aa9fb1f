/**
 * The configuration file of Azure's Device Agent for Windows IoT (`AzureDeviceManagementClient.json`), as far as it says
 * which identities a device needs and in which slot each belongs. Everything else in it is the agent's own business.
 *
 * Source: "Device Agent Configuration File", documentation of the agent.
 */
import { IotdmError } from '../errors.ts';
import { deviceIdProblem } from '../dps/enrollment.ts';
import { SLOT_COUNT } from '../slot/layout.ts';

/** A module and the slot for its identity. */
export interface ModuleSlot {
  readonly moduleId: string;
  readonly slot: number;
}

export interface AgentConfig {
  /** `dpsUri`, null where it is empty or absent. */
  readonly deviceHost: string | null;
  /** `dpsScopeId`, null where it is empty or absent. */
  readonly idScope: string | null;
  readonly deviceSlot: number;
  /** The agent's own module first, unless it uses the device's identity. */
  readonly modules: readonly ModuleSlot[];
}

/** What the agent calls its module where the file does not say. */
const DEFAULT_AGENT_MODULE = 'WindowsIoTDM';

type Fields = Readonly<Record<string, unknown>>;

/**
 * `otherModuleIds` is an object of `"MODULE": SLOT`; a list of `{"moduleId": …, "slot": …}` or of `"MODULE=SLOT"` is
 * understood as well, and a slot may be a number or its text.
 * @throws IotdmError `input.invalid`, which quotes no value but ids and slots: the file may hold a connection string
 */
export function parseAgentConfig(text: string): AgentConfig {
  let value: unknown;
  try {
    value = JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch {
    throw invalid('it is not JSON');
  }
  if (!isFields(value)) throw invalid('it does not hold a JSON object');
  const deviceSlot = optionalSlot(value, 'deviceSlotNumber') ?? 0;
  const modules = [...agentModule(value, deviceSlot), ...otherModules(value['otherModuleIds'])];
  const problem = moduleSlotsProblem(modules, deviceSlot);
  if (problem !== undefined) throw invalid(problem);
  return {
    deviceHost:
      optionalText(value, 'dpsUri')
        ?.replace(/^https:\/\//i, '')
        .replace(/\/$/, '') ?? null,
    idScope: optionalText(value, 'dpsScopeId'),
    deviceSlot,
    modules,
  };
}

/**
 * `MODULE=SLOT`.
 * @returns undefined for any other text
 */
export function parseModuleSlot(text: string): ModuleSlot | undefined {
  // A module id may hold `=`.
  const at = text.lastIndexOf('=');
  const moduleId = text.slice(0, Math.max(at, 0));
  const slot = slotOf(text.slice(at + 1));
  return slot === undefined || deviceIdProblem(moduleId) !== undefined ? undefined : { moduleId, slot };
}

/** Why these modules cannot all have their slots, or undefined when they can. */
export function moduleSlotsProblem(modules: readonly ModuleSlot[], deviceSlot: number): string | undefined {
  for (const [index, { moduleId, slot }] of modules.entries()) {
    if (slot === deviceSlot) return `slot ${slot} is the device's, and cannot be that of module ${moduleId}`;
    const earlier = modules.slice(0, index);
    const neighbour = earlier.find((other) => other.slot === slot);
    if (neighbour !== undefined) return `slot ${slot} is given to ${neighbour.moduleId} and to ${moduleId}`;
    if (earlier.some((other) => other.moduleId === moduleId)) return `module ${moduleId} is given two slots`;
  }
  return undefined;
}

/** In the slot of the device, the agent uses the device's identity and has no module. */
function agentModule(config: Fields, deviceSlot: number): ModuleSlot[] {
  const slot = optionalSlot(config, 'dmModuleSlotNumber');
  const id = optionalText(config, 'dmModuleId');
  if (slot === undefined) {
    if (id === null) return [];
    throw invalid('it has a dmModuleId and no dmModuleSlotNumber');
  }
  return slot === deviceSlot ? [] : [{ moduleId: moduleIdOf(id ?? DEFAULT_AGENT_MODULE), slot }];
}

function otherModules(value: unknown): ModuleSlot[] {
  if (value === undefined || value === null) return [];
  if (Array.isArray(value)) return value.map(listedModule);
  if (!isFields(value)) throw invalid('otherModuleIds is neither an object nor a list');
  return Object.entries(value).map(([id, slot]) => moduleSlot(id, slot));
}

function listedModule(entry: unknown): ModuleSlot {
  if (typeof entry === 'string') {
    const found = parseModuleSlot(entry);
    if (found !== undefined) return found;
  } else if (isFields(entry)) {
    return moduleSlot(entry['moduleId'] ?? entry['id'], entry['slot'] ?? entry['slotNumber']);
  }
  throw invalid('an entry of otherModuleIds names no module and slot');
}

function moduleSlot(id: unknown, slot: unknown): ModuleSlot {
  const moduleId = moduleIdOf(id);
  const number = slotOf(slot);
  if (number === undefined) throw invalid(`the slot of module ${moduleId} is not a number from 0 to 9`);
  return { moduleId, slot: number };
}

function moduleIdOf(id: unknown): string {
  if (typeof id !== 'string' || deviceIdProblem(id) !== undefined) {
    throw invalid('a module id is not what IoT Hub allows');
  }
  return id;
}

function optionalSlot(config: Fields, name: string): number | undefined {
  const value = config[name];
  if (value === undefined || value === null) return undefined;
  const slot = slotOf(value);
  if (slot === undefined) throw invalid(`${name} is not a number from 0 to 9`);
  return slot;
}

function slotOf(value: unknown): number | undefined {
  if (typeof value === 'string') return /^[0-9]$/.test(value) ? Number(value) : undefined;
  const isSlot = typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < SLOT_COUNT;
  return isSlot ? value : undefined;
}

function optionalText(config: Fields, name: string): string | null {
  const value = config[name];
  if (value === undefined || value === null) return null;
  if (typeof value !== 'string') throw invalid(`${name} is not a text`);
  return value.trim() === '' ? null : value.trim();
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(problem: string): IotdmError {
  return new IotdmError('input.invalid', `the agent's configuration cannot be used: ${problem}`);
}
