/** Queries of the service API: the one that is understood, and its answer in pages. */

import type { IncomingHttpHeaders } from 'node:http';
import { object } from './members.ts';
import { notEmulated, ServiceError, serviceErrorCodes } from './service-error.ts';

/** Azure documents no page sizes: what most of its query APIs have. A larger wish is capped, as a wish it is. */
const defaultPage = 100;
const largestPage = 1000;

export interface WantedPage {
  readonly limit: number;
  /** The lower-case id behind which the page begins; undefined for the first. */
  readonly after: string | undefined;
}

/** @throws ServiceError 400 */
export function wantedPage(headers: IncomingHttpHeaders): WantedPage {
  return {
    limit: pageSize(headers['x-ms-max-item-count']),
    after: continuation(headers['x-ms-continuation']),
  };
}

/**
 * @param itemType what Azure calls an item: `enrollment`, `enrollmentGroup`, `deviceRegistration`
 * @param next the lower-case id of the last item, when others follow
 */
export function pageHeaders(
  itemType: string,
  { limit }: WantedPage,
  next: string | undefined,
): Readonly<Record<string, string>> {
  return {
    'x-ms-item-type': itemType,
    'x-ms-max-item-count': String(limit),
    ...(next === undefined ? {} : { 'x-ms-continuation': Buffer.from(next, 'utf8').toString('base64url') }),
  };
}

/**
 * Takes the queries that mean everything, as Azure's clients write them: `*`, `SELECT *`, `SELECT * FROM collection`.
 * @param collection the one that the path is for, compared without regard to case; undefined where clients disagree
 * about its name
 * @throws ServiceError 501 for a query that selects less, 400 for what is none
 */
export function checkQuery(body: unknown, collection?: string): void {
  const { query } = object(body, 'the body');
  if (typeof query !== 'string') throw invalidRequest('query is missing or not a text');
  const words = query
    .trim()
    .replace(/\s*;$/, '')
    .split(/\s+/)
    .map((word) => word.toLowerCase());
  const [first, what, from, where, ...more] = words;
  if (first === '*' && words.length === 1) return;
  const whole = collection === undefined ? 'SELECT *' : `SELECT * FROM ${collection}`;
  if (first !== 'select' || what === undefined) throw invalidRequest(`the query is neither * nor ${whole}`);
  if (what === '*' && from === undefined) return;
  if (collection !== undefined && from === 'from' && where !== collection.toLowerCase()) {
    throw invalidRequest(`the query is not about ${collection}`);
  }
  if (what === '*' && from === 'from' && where !== undefined && more.length === 0) return;
  throw notEmulated(`queries other than * and ${whole} are not emulated`);
}

function pageSize(header: string | readonly string[] | undefined): number {
  if (header === undefined) return defaultPage;
  if (typeof header === 'string' && /^[0-9]{1,9}$/.test(header) && Number(header) > 0) {
    return Math.min(Number(header), largestPage);
  }
  throw invalidRequest('x-ms-max-item-count is not a number from 1');
}

/** The id in a continuation token, which is that of the last item on the page before. */
function continuation(header: string | readonly string[] | undefined): string | undefined {
  if (header === undefined || header === '') return undefined;
  if (typeof header === 'string') {
    const id = Buffer.from(header, 'base64url').toString('utf8');
    const isOurs = Buffer.from(id, 'utf8').toString('base64url') === header;
    if (isOurs && /^[a-z0-9._:-]{1,128}$/.test(id)) return id;
  }
  throw invalidRequest('x-ms-continuation is not a token of this service');
}

function invalidRequest(message: string): ServiceError {
  return new ServiceError(serviceErrorCodes.invalidRequest, message);
}
