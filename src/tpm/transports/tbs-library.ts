/**
 * tbs.dll, the library of Windows' TPM Base Services, as functions. The only file that knows koffi, which is loaded
 * when a TPM is opened on Windows and nowhere else.
 *
 * Source of the declarations: tbs.h of the Windows SDK.
 */
import { IotdmError } from '../../errors.ts';

/** A TBS_HCONTEXT: nothing but a pointer to hand back. */
export type TbsContext = unknown;

/** The part of tbs.dll that the transport uses. Results are TBS_RESULTs, unsigned; 0 is success. */
export interface TbsLibrary {
  createContext(): { readonly result: number; readonly context: TbsContext };
  /** Runs on a thread of its own, as the TPM may take its time. `response` is at most `capacity` bytes. */
  submitCommand(
    context: TbsContext,
    command: Buffer,
    capacity: number,
  ): Promise<{ readonly result: number; readonly response: Buffer }>;
  /** Makes the commands under way end with TBS_E_COMMAND_CANCELED. */
  cancelCommands(context: TbsContext): number;
  closeContext(context: TbsContext): number;
}

/** A C function as koffi gives it. */
export interface ForeignFunction {
  (...args: unknown[]): unknown;
  readonly async: (...args: unknown[]) => void;
}

/** A loaded library: takes a function's declaration in C and gives the function. */
export type DeclareFunction = (declaration: string) => ForeignFunction;

/** TBS_CONTEXT_PARAMS2: version 2, and a bit field in which bit 2 is includeTpm20. Windows is little-endian. */
const CONTEXT_PARAMETERS = Buffer.from('0200000004000000', 'hex');
const LOCALITY_ZERO = 0;
const PRIORITY_NORMAL = 200;

/**
 * Loads tbs.dll.
 * @throws IotdmError `tpm-unavailable.software-missing` where koffi was not installed or the library is not there
 */
export async function loadTbsLibrary(): Promise<TbsLibrary> {
  let declare: DeclareFunction;
  try {
    const koffi = await import('koffi');
    const library = koffi.load('tbs.dll');
    declare = (declaration) => library.func(declaration) as ForeignFunction;
  } catch (cause) {
    throw new IotdmError('tpm-unavailable.software-missing', 'the TPM Base Services cannot be loaded', {
      cause,
      details: { software: 'koffi' },
    });
  }
  return bindTbsLibrary(declare);
}

export function bindTbsLibrary(declare: DeclareFunction): TbsLibrary {
  const create = declare(
    'uint32_t __stdcall Tbsi_Context_Create(const uint8_t *params, _Out_ void **context)',
  );
  const submit = declare(
    'uint32_t __stdcall Tbsip_Submit_Command(void *context, uint32_t locality, uint32_t priority, ' +
      'const uint8_t *command, uint32_t commandBytes, uint8_t *response, _Inout_ uint32_t *responseBytes)',
  );
  const cancel = declare('uint32_t __stdcall Tbsip_Cancel_Commands(void *context)');
  const close = declare('uint32_t __stdcall Tbsip_Context_Close(void *context)');
  return {
    createContext: () => {
      const context: unknown[] = [null];
      const result = Number(create(CONTEXT_PARAMETERS, context));
      return { result, context: context[0] };
    },
    submitCommand: (context, command, capacity) =>
      new Promise((resolve, reject) => {
        // Held by the callback until the call has ended: another thread reads and writes this memory meanwhile.
        const memory = { command, response: Buffer.alloc(capacity), length: [capacity] };
        submit.async(
          ...[context, LOCALITY_ZERO, PRIORITY_NORMAL, memory.command, memory.command.length],
          ...[memory.response, memory.length],
          (error: unknown, result: unknown) => {
            if (error instanceof Error) reject(error);
            else resolve({ result: Number(result), response: memory.response.subarray(0, memory.length[0]) });
          },
        );
      }),
    cancelCommands: (context) => Number(cancel(context)),
    closeContext: (context) => Number(close(context)),
  };
}
