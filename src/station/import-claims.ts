/** The rows of an import that are about to be written, announced in the index of identities, and judged by it. */
import type { Enrollment, StoredEnrollment } from '../dps/enrollment.ts';
import type { ClaimKind } from '../records/identity-log.ts';
import { conflictText, givesIdentity, type IdentityConflict, type Writing } from './identity-facts.ts';
import type { Claimed, IdentityIndex } from './identity-index.ts';
import { asObjection, objectionOf, type Objection } from './import-comparison.ts';
import { Unreadable } from './import-requests.ts';

/** What a row has to do with it. */
export interface ClaimingItem {
  readonly enrollment: Enrollment;
  /** What `enrollment` was merged with. */
  stored: StoredEnrollment | undefined;
  claimed: Claimed | undefined;
}

export interface JudgedItems<Item> {
  readonly free: readonly Item[];
  readonly taken: readonly { readonly item: Item; readonly objection: Objection }[];
}

/** @throws IotdmError as `IdentityIndex.claim`, and what ends an import */
export async function claimItems<Item extends ClaimingItem>(
  index: IdentityIndex,
  kind: ClaimKind,
  items: readonly Item[],
): Promise<JudgedItems<Item>> {
  const giving = kind === 'create' ? items : items.filter((item) => givesIdentity(writingOf(kind, item)));
  if (giving.length === 0) return { free: items, taken: [] };
  const claims = await index.claim(
    kind,
    giving.map((item) => writingOf(kind, item)),
  );
  const taken = new Map<Item, Objection>();
  let failure: Error | undefined;
  for (const [number, item] of giving.entries()) {
    // Of what it was announced for before nobody knows what came of it.
    item.claimed?.end('unknown');
    item.claimed = claims[number];
    const { conflict, error } = claims[number] ?? {};
    const objection = conflict === undefined ? undefined : identityObjection(conflict);
    const unreadable = error === undefined ? undefined : objectionTo(error);
    if (error !== undefined && unreadable === undefined) failure ??= error;
    else if (objection !== undefined) taken.set(item, objection);
    else if (unreadable !== undefined) taken.set(item, unreadable);
  }
  if (failure !== undefined) {
    for (const claim of claims) claim.end('refused');
    throw failure;
  }
  return {
    free: taken.size === 0 ? items : items.filter((item) => !taken.has(item)),
    taken: [...taken].map(([item, objection]) => ({ item, objection })),
  };
}

function writingOf(kind: ClaimKind, { enrollment, stored }: ClaimingItem): Writing {
  return kind === 'create' || stored === undefined ? { enrollment } : { enrollment, stored };
}

export function identityObjection(conflict: IdentityConflict): Objection {
  return { code: 'service.conflict', message: conflictText(conflict), other: conflict.other };
}

/** Where the other enrollment could not be looked at. */
export function objectionTo(error: unknown): Objection | undefined {
  return error instanceof Unreadable ? asObjection(error.cause) : objectionOf(error);
}
