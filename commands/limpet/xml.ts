/** XML in the layout of Limpet's output, escaped so that it parses whatever a TPM or a slot holds. */

export interface XmlElement {
  readonly name: string;
  readonly attributes?: Readonly<Record<string, string>>;
  /** Text, or elements; the empty text for an empty element. */
  readonly content: string | readonly XmlElement[];
  /** The text stands between the tags on one line. Limpet puts most texts on a line of their own. */
  readonly inline?: boolean;
}

export function element(name: string, content: string | readonly XmlElement[]): XmlElement {
  return { name, content };
}

export function inlineElement(name: string, content: string): XmlElement {
  return { name, content, inline: true };
}

/** A whole document, its line ends included. */
export function xmlDocument(root: XmlElement): string {
  return `<?xml version="1.0" encoding="utf-8"?>\n${render(root, '')}`;
}

function render({ name, attributes = {}, content, inline = false }: XmlElement, indent: string): string {
  const start = [
    name,
    ...Object.entries(attributes).map(([key, value]) => `${key}="${escaped(value)}"`),
  ].join(' ');
  if (content === '') return `${indent}<${start}/>\n`;
  if (typeof content === 'string') {
    const text = escaped(content);
    return inline
      ? `${indent}<${start}>${text}</${name}>\n`
      : `${indent}<${start}>\n${indent}  ${text}\n${indent}</${name}>\n`;
  }
  const children = content.map((child) => render(child, `${indent}  `)).join('');
  return `${indent}<${start}>\n${children}${indent}</${name}>\n`;
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
};

/** XML 1.0, section 2.2: what is no character there cannot be written, not even as a reference; `?` stands for it. */
function escaped(text: string): string {
  return (
    text
      .replace(/[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu, '?')
      .replace(/[&<>"']/g, (character) => entities[character] ?? '')
      // Section 2.11 and 3.3.3: a reader would make other white space of these.
      .replace(/[\t\n\r]/g, (character) => `&#${character.charCodeAt(0)};`)
  );
}
