/** What a strict XML parser makes of a document: a witness for the XML that iotdm writes. */
import { DOMParser, type Element } from '@xmldom/xmldom';

/** Text without the white space around it; an empty text for an empty element. */
export interface ParsedElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly text: string;
  readonly children: readonly ParsedElement[];
}

/** @throws on whatever is not well-formed, and on what a parser only warns of */
export function parseXml(text: string): ParsedElement {
  const parser = new DOMParser({
    onError: (level, message) => {
      // A character like any other; the parser takes it for a sign of a wrong encoding.
      if (message.startsWith('Unicode replacement character detected')) return;
      throw new Error(`${level}: ${message}`);
    },
  });
  const root = parser.parseFromString(text, 'text/xml').documentElement;
  if (root === null) throw new Error('there is no element');
  return describe(root);
}

function describe(element: Element): ParsedElement {
  const children: ParsedElement[] = [];
  let text = '';
  for (let node = element.firstChild; node !== null; node = node.nextSibling) {
    if (node.nodeType === node.ELEMENT_NODE) children.push(describe(node as Element));
    else text += node.nodeValue ?? '';
  }
  const attributes = Object.fromEntries([...element.attributes].map(({ name, value }) => [name, value]));
  return { name: element.tagName, attributes, text: text.trim(), children };
}

/** `Outer/Inner` of every element with a text, and the text. */
export function textsOf({ name, text, children }: ParsedElement, path = ''): Record<string, string> {
  const here = path === '' ? name : `${path}/${name}`;
  if (children.length === 0) return { [here]: text };
  return Object.assign({}, ...children.map((child) => textsOf(child, here))) as Record<string, string>;
}
