/** A certificate as NV indices and vendors' files hold it: with a TCG header before it, or padding behind it. */
import { derElement, derTag } from './der.ts';

/**
 * TCG PC Client Specific Implementation Specification for Conventional BIOS, TCG_PCCLIENT_STORED_CERT: tag 0x1001,
 * type 0 and two bytes of length before the certificate; some writers leave the length out.
 */
const STORED_CERTIFICATE = Buffer.from('100100', 'hex');
const STORED_CERTIFICATE_BYTES = 5;

/** TCG_FULL_CERT in the same specification: a second tag, 0x1002, that some writers put behind the first header. */
const FULL_CERTIFICATE = Buffer.from('1002', 'hex');

/** A SEQUENCE whose length takes two bytes. */
const CERTIFICATE_BEGIN = Buffer.from('3082', 'hex');

/** Tab, line feed, carriage return, end of file as DOS has it, space. */
const LINE_BYTES: readonly number[] = [0x09, 0x0a, 0x0d, 0x1a, 0x20];

export interface CertificateArea {
  /** DER. */
  readonly certificate: Buffer;
  /** Whether a TCG header stands before it. */
  readonly hasHeader: boolean;
  /** What stands behind it: padding, or what does not belong there. */
  readonly rest: Buffer;
}

/** The parts of an area that a DER certificate stands in, or undefined where no whole DER sequence begins. */
export function splitCertificateArea(area: Buffer): CertificateArea | undefined {
  const hasHeader = beginsWithHeader(area);
  const body = hasHeader ? withoutHeader(area) : area;
  const element = derElement(body);
  // A certificate is longer than 255 bytes and shorter than 64 KiB, so its length takes two bytes.
  if (element?.tag !== derTag.sequence || element.start !== 4 || element.end > body.length) return undefined;
  return { certificate: body.subarray(0, element.end), hasHeader, rest: body.subarray(element.end) };
}

/**
 * Whether bytes behind a certificate say nothing: one byte over and over, whichever it is, as memory is filled with, or
 * the ends of lines that editors and transfers add.
 */
export function isPadding(rest: Buffer): boolean {
  const [first] = rest;
  return rest.every((byte) => byte === first) || rest.every((byte) => LINE_BYTES.includes(byte));
}

/** Whether the bytes begin as TCG_PCCLIENT_STORED_CERT. */
export function beginsWithHeader(area: Buffer): boolean {
  return area.subarray(0, STORED_CERTIFICATE.length).equals(STORED_CERTIFICATE);
}

/**
 * The DER certificate at the beginning of an NV area, without a TCG header in front and padding behind it.
 * @returns a copy; undefined where no DER sequence begins
 */
export function trimCertificate(area: Buffer): Buffer | undefined {
  const parts = splitCertificateArea(area);
  return parts === undefined ? undefined : Buffer.from(parts.certificate);
}

function withoutHeader(area: Buffer): Buffer {
  const bare = area.subarray(STORED_CERTIFICATE.length);
  // No certificate is 12,418 bytes long: what would be that length is the beginning of a certificate.
  if (bare.subarray(0, CERTIFICATE_BEGIN.length).equals(CERTIFICATE_BEGIN)) return bare;
  const body = area.subarray(STORED_CERTIFICATE_BYTES);
  return body.subarray(0, FULL_CERTIFICATE.length).equals(FULL_CERTIFICATE)
    ? body.subarray(FULL_CERTIFICATE.length)
    : body;
}
