/** The versions of what the service keeps. Some write an ETag with its quotation marks, some without: both name one version. */

/** RFC 9110, 8.8.3, with or without its quotation marks, and short enough for a header. */
const etagPattern = /^(?:(?:W\/)?"[\x21\x23-\x7e]{0,256}"|[\x21\x23-\x7e]{1,256})$/;

/** Whether a text can be an ETag. */
export function isEtag(text: string): boolean {
  return etagPattern.test(text);
}

/** RFC 9110, 13.1.1: whatever version there is. */
export const anyEtag = '*';

/** As a header wants it. */
export function quotedEtag(etag: string): string {
  return etag === anyEtag || etag.endsWith('"') ? etag : `"${etag}"`;
}

/** Whether two ETags name one version. */
export function isSameVersion(one: string, other: string): boolean {
  return quotedEtag(one) === quotedEtag(other);
}
