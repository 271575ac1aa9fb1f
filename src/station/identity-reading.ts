/** One reading of all enrollments for two who want them: the index of identities, and the snapshot for an input's rows. */
import type { StoredEnrollment } from '../dps/enrollment.ts';
import { EnrollmentSnapshot } from './enrollment-snapshot.ts';
import type { IdentityIndex } from './identity-index.ts';

export interface ReadingOptions {
  /** Registration ids of the input, in any order; called where there is anything to look for. */
  readonly ids: () => AsyncIterable<string>;
  readonly count: number;
  readonly onReading?: (enrollments: number) => Promise<void> | void;
}

/**
 * Brings the index up to date.
 * @returns what the service holds of the input, where all of it was read for that and there was anything; the caller
 * closes it
 * @throws as `IdentityIndex.prepare`
 */
export async function prepareWithSnapshot(
  index: IdentityIndex,
  { ids, count, onReading }: ReadingOptions,
): Promise<EnrollmentSnapshot | undefined> {
  const pages = new HandedOn<readonly StoredEnrollment[]>();
  let snapshot: Promise<EnrollmentSnapshot> | undefined;
  try {
    const isRead = await index.prepare({
      expected: count,
      ...(onReading === undefined ? {} : { onReading }),
      onPage: async (page) => {
        if (page.length === 0) return;
        snapshot ??= EnrollmentSnapshot.read({ ids: ids(), count, pages, most: Infinity });
        await Promise.race([pages.put(page), snapshot]);
      },
    });
    pages.end();
    const read = await snapshot;
    if (isRead && read?.isComplete === true) return read;
    await read?.close();
    return undefined;
  } catch (error) {
    pages.end();
    await snapshot?.then(
      (read) => read.close(),
      () => undefined,
    );
    throw error;
  }
}

/** Hands items from one who has them to one who asks for them. */
class HandedOn<T> implements AsyncIterable<T> {
  #item: { readonly value: T; readonly taken: () => void } | undefined;
  #isEnded = false;
  #wake: () => void = () => undefined;

  /** Resolves when the next one is asked for. */
  async put(value: T): Promise<void> {
    await new Promise<void>((taken) => {
      this.#item = { value, taken };
      this.#wake();
    });
  }

  end(): void {
    this.#isEnded = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    for (;;) {
      const item = this.#item;
      if (item !== undefined) {
        this.#item = undefined;
        yield item.value;
        item.taken();
      } else if (this.#isEnded) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
