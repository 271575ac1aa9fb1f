import type { Context } from '../shared/context.ts';
import type { XmlElement } from './xml.ts';

/** What a row gives: XML, or for a few of them plain text. */
export type LimpetOutput = XmlElement | string;

export type TpmHandler = (context: Context, parameters: readonly string[]) => Promise<LimpetOutput>;

export type SlotHandler = (
  context: Context,
  slot: number,
  parameters: readonly string[],
) => Promise<LimpetOutput>;
