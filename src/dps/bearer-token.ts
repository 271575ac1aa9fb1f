/** Access by a token that somebody else hands out, such as Microsoft Entra ID: asked for once, renewed in time. */
import { IotdmError } from '../errors.ts';

export interface AccessToken {
  readonly token: string;
  /** Milliseconds since 1970. */
  readonly expiresOnTimestamp: number;
}

/** As Azure's libraries define it; theirs fit. */
export interface TokenCredential {
  getToken(
    scope: string | string[],
    options?: { readonly abortSignal?: AbortSignal },
  ): Promise<AccessToken | null>;
}

/**
 * What the provisioning service calls itself towards Entra, in every cloud: Microsoft documents this name alone ("Control
 * access to Azure IoT Hub Device Provisioning Service (DPS) by using Microsoft Entra ID"), and its own command line asks
 * for no other one in China or in the US government's cloud. What differs there is who gives the token.
 */
export const PROVISIONING_SCOPE = 'https://azure-devices-provisioning.net/.default';

/** Entra's tokens last an hour and more; a request must not be under way when one expires. */
const RENEWED_BEFORE_MS = 5 * 60_000;

export class BearerToken {
  readonly #credential: TokenCredential;
  readonly #clock: () => number;
  #token: AccessToken | undefined;
  #underWay: Promise<AccessToken> | undefined;

  constructor(credential: TokenCredential, clock: () => number = Date.now) {
    this.#credential = credential;
    this.#clock = clock;
  }

  /**
   * The header `Authorization`. Callers at the same time share one request for a token; while a token is still good, a
   * failure to renew it is of no consequence.
   * @throws IotdmError `auth.no-token`
   */
  async authorization(signal: AbortSignal): Promise<string> {
    const { token } = await this.#current(signal);
    return `Bearer ${token}`;
  }

  /** The service has refused the token: the next call asks for another one. */
  forget(): void {
    this.#token = undefined;
  }

  async #current(signal: AbortSignal): Promise<AccessToken> {
    const held = this.#token;
    if (held !== undefined && held.expiresOnTimestamp - RENEWED_BEFORE_MS > this.#clock()) return held;
    this.#underWay ??= this.#request(signal).finally(() => {
      this.#underWay = undefined;
    });
    try {
      return await this.#underWay;
    } catch (error) {
      if (held !== undefined && held === this.#token && held.expiresOnTimestamp > this.#clock()) return held;
      throw error;
    }
  }

  async #request(signal: AbortSignal): Promise<AccessToken> {
    let token: AccessToken | null;
    try {
      token = await this.#credential.getToken(PROVISIONING_SCOPE, { abortSignal: signal });
    } catch (error) {
      throw noToken(error);
    }
    if (token === null) throw noToken(undefined);
    this.#token = token;
    return token;
  }
}

/** Its own words are many lines, one for each way that was tried; the code alone is what can be looked up. */
function noToken(cause: unknown): IotdmError {
  if (cause instanceof IotdmError) return cause;
  const code = cause instanceof Error ? /\bAADSTS[0-9]{2,9}\b/.exec(cause.message)?.[0] : undefined;
  const reason =
    code === undefined
      ? 'no identity is logged in on this machine, or it cannot be reached'
      : `it said ${code}`;
  return new IotdmError('auth.no-token', `no token from Microsoft Entra ID: ${reason}`, {
    ...(cause === undefined ? {} : { cause }),
    ...(code === undefined ? {} : { details: { entraCode: code } }),
  });
}
