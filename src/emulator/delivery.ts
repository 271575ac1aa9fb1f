/** Puts answers on the wire: whole and at once, or, where a fault says so, late, in part or not at all. */

import type { ServerResponse } from 'node:http';
import type { Fault } from './fault-spec.ts';

export interface ServiceAnswer {
  readonly status: number;
  /** A JSON document. */
  readonly json?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/**
 * Resolves when all has been sent that will be, or the caller has gone away.
 * @param delayMs how long the answer is held back besides what the fault does
 */
export async function deliver(
  response: ServerResponse,
  answer: ServiceAnswer,
  fault: Fault | undefined,
  delayMs: number,
): Promise<void> {
  if (delayMs > 0 && !(await pause(response, delayMs))) return;
  switch (fault?.kind) {
    case 'cut-before':
    case 'cut-after':
      response.destroy();
      return;
    case 'cut-midway':
      await sendHalf(response, answer);
      response.destroy();
      return;
    case 'stall':
      if (await pause(response, fault.ms)) send(response, answer);
      return;
    case 'stall-midway': {
      const rest = await sendHalf(response, answer);
      if (await pause(response, fault.ms)) response.end(rest);
      return;
    }
    case 'truncate':
      send(response, answer.json === undefined ? answer : { ...answer, json: firstHalf(answer.json) });
      return;
    default:
      send(response, answer);
  }
}

function send(response: ServerResponse, answer: ServiceAnswer): void {
  response.end(writeHead(response, answer));
}

/** The body's first half, its whole length being announced. Returns the rest. */
async function sendHalf(response: ServerResponse, answer: ServiceAnswer): Promise<Buffer | undefined> {
  const body = writeHead(response, answer);
  if (body === undefined) {
    // There is no half of nothing: the head is kept back.
    return undefined;
  }
  const half = body.length >> 1;
  await new Promise<void>((written) => {
    response.once('close', written);
    response.write(body.subarray(0, half), () => {
      written();
    });
  });
  return body.subarray(half);
}

/** Returns the body to be sent after it. */
function writeHead(response: ServerResponse, { status, json, headers }: ServiceAnswer): Buffer | undefined {
  if (json === undefined) {
    response.writeHead(status, { ...headers });
    return undefined;
  }
  const body = Buffer.from(json, 'utf8');
  response.writeHead(status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': body.length,
    ...headers,
  });
  return body;
}

function firstHalf(text: string): string {
  return text.slice(0, Math.ceil(text.length / 2));
}

/** Whether the caller is still there after so many milliseconds; without a time it waits until the caller is not. */
async function pause(response: ServerResponse, ms: number | undefined): Promise<boolean> {
  // The response has no socket of its own while the answer before it is still on its way.
  if (response.destroyed || response.req.socket.destroyed) return false;
  return new Promise((resolve) => {
    const timer = ms === undefined ? undefined : setTimeout(finish, ms, true);
    const gone = (): void => {
      finish(false);
    };
    response.once('close', gone);
    function finish(isThere: boolean): void {
      clearTimeout(timer);
      response.off('close', gone);
      resolve(isThere);
    }
  });
}
