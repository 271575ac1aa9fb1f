/**
 * Places in JSON text, which JSON.parse does not tell: where it stops being JSON, and where the value of a member
 * stands. Only read after a fault was found.
 */

/** Deeper nesting is called a fault rather than walked. */
const MAX_DEPTH = 500;

// No repetition within a repetition: an unterminated string would be tried in exponentially many ways.
const token =
  /[ \t\r\n]*(?:([[\]{}:,])|("(?:[^"\\\p{Cc}]|[\u007f-\u009f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null))/uy;

interface Token {
  readonly text: string;
  readonly start: number;
}

/** Offset (in UTF-16 units) of the first character at which the text is not one JSON value, or null when it is one. */
export function jsonFaultOffset(text: string): number | null {
  const reader = new TokenReader(text);
  if (!readValue(reader, 0)) return reader.offset;
  return reader.atEnd() ? null : reader.offset;
}

/**
 * Offset (in UTF-16 units) of a member's value in the text of one JSON value, or of the deepest member on the way to
 * it that is there.
 */
export function jsonMemberOffset(text: string, path: readonly string[]): number {
  const reader = new TokenReader(text);
  let found = reader.peek()?.start ?? 0;
  for (const key of path) {
    if (reader.next()?.text !== '{' || !skipToMember(reader, key)) return found;
    found = reader.peek()?.start ?? found;
  }
  return found;
}

/** 1-based line and column (in characters) of an offset, for text whose first character stands at `first`. */
export function placeOf(
  text: string,
  offset: number,
  first: { line: number; column: number },
): { line: number; column: number } {
  const before = text.slice(0, offset);
  const lastFeed = before.lastIndexOf('\n');
  const column = Array.from(before.slice(lastFeed + 1)).length;
  if (lastFeed === -1) return { line: first.line, column: first.column + column };
  return { line: first.line + before.split('\n').length - 1, column: column + 1 };
}

class TokenReader {
  readonly #text: string;
  #offset = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Where the next token begins, or what is no token. */
  get offset(): number {
    let offset = this.#offset;
    while (' \t\r\n'.includes(this.#text.charAt(offset)) && offset < this.#text.length) offset += 1;
    return offset;
  }

  atEnd(): boolean {
    return this.offset === this.#text.length;
  }

  peek(): Token | undefined {
    token.lastIndex = this.#offset;
    const match = token.exec(this.#text);
    const text = match?.[1] ?? match?.[2] ?? match?.[3];
    return text === undefined ? undefined : { text, start: token.lastIndex - text.length };
  }

  next(): Token | undefined {
    const found = this.peek();
    if (found !== undefined) this.#offset = found.start + found.text.length;
    return found;
  }

  /** Reads the next token if it is this one. */
  take(text: string): boolean {
    if (this.peek()?.text !== text) return false;
    this.next();
    return true;
  }
}

function readValue(reader: TokenReader, depth: number): boolean {
  const found = reader.peek();
  if (found === undefined || depth > MAX_DEPTH) return false;
  if (found.text === '[') return readMembers(reader, depth, ']', false);
  if (found.text === '{') return readMembers(reader, depth, '}', true);
  if (':,]}'.includes(found.text)) return false;
  reader.next();
  return true;
}

function readMembers(reader: TokenReader, depth: number, end: string, keyed: boolean): boolean {
  reader.next();
  if (reader.take(end)) return true;
  for (;;) {
    if (keyed) {
      if (reader.peek()?.text.startsWith('"') !== true) return false;
      reader.next();
      if (!reader.take(':')) return false;
    }
    if (!readValue(reader, depth + 1)) return false;
    if (reader.take(end)) return true;
    if (!reader.take(',')) return false;
  }
}

/** Reads an object's members until the next token is the value of this one. */
function skipToMember(reader: TokenReader, key: string): boolean {
  for (;;) {
    const name = reader.next();
    if (name?.text.startsWith('"') !== true || !reader.take(':')) return false;
    if (JSON.parse(name.text) === key) return true;
    if (!skipValue(reader) || !reader.take(',')) return false;
  }
}

function skipValue(reader: TokenReader): boolean {
  let depth = 0;
  do {
    const found = reader.next();
    if (found === undefined) return false;
    if (found.text === '{' || found.text === '[') depth += 1;
    if (found.text === '}' || found.text === ']') depth -= 1;
  } while (depth > 0);
  return true;
}
