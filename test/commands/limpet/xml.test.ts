import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { element, inlineElement, xmlDocument } from '../../../commands/limpet/xml.ts';
import { parseXml } from '../../lab/xml.ts';

const HEADER = '<?xml version="1.0" encoding="utf-8"?>\n';

describe('XML in the layout of Limpet', () => {
  it('puts a text on a line of its own, and an empty element where there is none', () => {
    assert.equal(xmlDocument(element('KeyName', 'AAs%3d')), `${HEADER}<KeyName>\n  AAs%3d\n</KeyName>\n`);
    assert.equal(xmlDocument(element('KeyName', '')), `${HEADER}<KeyName/>\n`);
    assert.equal(xmlDocument(inlineElement('Version', '2')), `${HEADER}<Version>2</Version>\n`);
  });

  it('indents what is inside, and shows an empty list as one', () => {
    const device = { ...element('LogicalDevice', [element('StorageName', 'x')]), attributes: { id: '3' } };
    assert.equal(
      xmlDocument(element('LogicalDevices', [device])),
      `${HEADER}<LogicalDevices>\n  <LogicalDevice id="3">\n    <StorageName>\n      x\n    </StorageName>\n` +
        '  </LogicalDevice>\n</LogicalDevices>\n',
    );
    assert.equal(
      xmlDocument(element('LogicalDevices', [])),
      `${HEADER}<LogicalDevices>\n</LogicalDevices>\n`,
    );
  });

  it('parses to the same text whatever it holds; a question mark stands for what is no character', () => {
    const anyText = fc.string({ unit: 'binary', maxLength: 40 });
    const nasty = fc.constantFrom(
      ']]>',
      '<!--',
      '&amp;',
      '<?x?>',
      '\u0000',
      '\uFFFF',
      '\uD800',
      '\r\n',
      '"\'',
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(anyText, nasty)), fc.boolean(), (parts, inline) => {
        const text = parts.join('');
        const expected = Array.from(text, (character) => {
          const code = character.codePointAt(0) ?? 0;
          const isSurrogate = code >= 0xd800 && code <= 0xdfff;
          const isControl = code < 0x20 && !'\t\n\r'.includes(character);
          return isSurrogate || isControl || code === 0xfffe || code === 0xffff ? '?' : character;
        }).join('');
        const leaf = { ...element('Leaf', text), attributes: { id: text }, inline };
        const parsed = parseXml(xmlDocument(element('Root', [leaf])));
        const [child] = parsed.children;
        assert.equal(child?.attributes['id'], expected);
        assert.equal(child.text, expected.trim());
      }),
    );
  });
});
