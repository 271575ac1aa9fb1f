/** The TPM of a Windows machine, through its TPM Base Services (TBS): they keep several programs apart and clean up. */
import { IotdmError, withEffect } from '../../errors.ts';
import { tbsError } from '../tbs-code.ts';
import { checkWholeResponse, withTimeLimit, type TpmTransport } from '../transport.ts';
import { loadTbsLibrary, type TbsLibrary } from './tbs-library.ts';

/** Loads tbs.dll; a test puts a fake here. */
export type LoadTbs = () => Promise<TbsLibrary>;

const NAME = 'tbs';

/** TPM2_MAX_RESPONSE_SIZE, what tpm2-tss offers to TBS. */
const RESPONSE_CAPACITY = 4096;

/**
 * @param timeoutMs time limit of one command; TBS is asked to cancel one that outlasts it
 * @throws IotdmError `tpm-unavailable.*`
 */
export async function openTbsTransport(
  timeoutMs: number,
  loadTbs: LoadTbs = loadTbsLibrary,
): Promise<TpmTransport> {
  const library = await loadTbs();
  const { result, context } = library.createContext();
  if (result !== 0) throw tbsError('Tbsi_Context_Create', result);
  let dead: IotdmError | undefined;
  let underWay: Promise<unknown> | undefined;

  const exchange = async (command: Buffer): Promise<Buffer> => {
    const submitted = library.submitCommand(context, command, RESPONSE_CAPACITY);
    underWay = submitted.catch(() => undefined);
    const answer = await submitted;
    if (answer.result !== 0) throw tbsError('Tbsip_Submit_Command', answer.result);
    return checkWholeResponse(NAME, answer.response);
  };

  return {
    name: NAME,
    send: async (command) => {
      if (dead !== undefined) throw withEffect(dead, 'none');
      try {
        return await withTimeLimit(NAME, timeoutMs, exchange(command));
      } catch (error) {
        dead = failure(error);
        // The context must not be closed, nor the buffers let go, under a call that still runs.
        if (dead.code === 'tpm-unavailable.timeout') library.cancelCommands(context);
        throw dead;
      }
    },
    close: async () => {
      if (dead?.code === 'tpm-unavailable.timeout') {
        void underWay?.then(() => library.closeContext(context));
        return;
      }
      await underWay;
      library.closeContext(context);
    },
  };
}

function failure(error: unknown): IotdmError {
  if (error instanceof IotdmError) return error;
  return new IotdmError('tpm-unavailable.connection', 'the TPM Base Services could not be called', {
    cause: error,
    effect: 'unknown',
  });
}
