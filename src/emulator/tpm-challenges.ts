/** Challenges that were put to devices with a TPM, and are open. */

import { randomBytes } from 'node:crypto';
import { isSignedWith, type PresentedToken } from './sas.ts';

const keyBytes = 32;
/** Challenges to one device that may be open at a time: who asks for more does not close those of the device. */
const mostOpen = 4;
const lifetimeMs = 60 * 60 * 1000;

export interface Challenge {
  readonly key: Buffer;
  /** The storage root key that it was made for: the device's own key goes to no other. */
  readonly storageRootKey: Buffer;
  readonly expiresAt: number;
}

export class TpmChallenges {
  readonly #clock: () => Date;
  /** By lower-case registration id. They are not kept over a restart: the device is put to another challenge then. */
  readonly #challenges = new Map<string, Challenge[]>();

  constructor(clock: () => Date) {
    this.#clock = clock;
  }

  open(registrationId: string, storageRootKey: Buffer): Challenge {
    const challenge: Challenge = {
      key: randomBytes(keyBytes),
      storageRootKey,
      expiresAt: this.#clock().getTime() + lifetimeMs,
    };
    const open = [...this.#openTo(registrationId), challenge].slice(-mostOpen);
    this.#challenges.set(registrationId.toLowerCase(), open);
    return challenge;
  }

  /** The one that a token answers. */
  answeredBy(registrationId: string, token: PresentedToken): Challenge | undefined {
    return this.#openTo(registrationId).find(({ key }) => isSignedWith(token, key));
  }

  /** An answer counts once: whoever has recorded it cannot register with it. */
  close(registrationId: string, challenge: Challenge): void {
    const left = this.#openTo(registrationId).filter((other) => other !== challenge);
    this.#challenges.set(registrationId.toLowerCase(), left);
  }

  #openTo(registrationId: string): Challenge[] {
    const now = this.#clock().getTime();
    return (this.#challenges.get(registrationId.toLowerCase()) ?? []).filter(
      ({ expiresAt }) => expiresAt > now,
    );
  }
}
