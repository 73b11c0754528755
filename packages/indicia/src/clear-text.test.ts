import fc from 'fast-check';
import { expect, test } from 'vitest';
import { fitCodes, fontWidths, pdfString, widthOfCodes, winAnsi } from './clear-text.ts';

const anyText = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: fc.constantFrom('(', ')', '\\', '€', 'ő', '\n', 'a') }),
);
const widths = fontWidths((character) => (character === 'i' ? 222 : 556)).regular;

test('Western text keeps its letters, other text stays readable where it can', () => {
  expect(winAnsi('Zoë Müller – “A” €5')).toBe('Zo\xeb M\xfcller \x96 \x93A\x94 \x805');
  expect(winAnsi('Zoe\u0308')).toBe('Zo\xeb');
  expect(winAnsi('Erdős Łódź')).toBe('Erdos ?\xf3dz');
  expect(winAnsi('東京\tx\ny')).toBe('?? x y');
});

test('any text becomes codes of the font, and a PDF string that ends where it should', () => {
  fc.assert(
    fc.property(anyText, (text) => {
      const codes = winAnsi(text);
      expect(codes).toMatch(/^[\x20-\x7e\x80-\xff]*$/);
      const literal = pdfString(codes);
      expect(literal).toMatch(/^\((?:[^()\\]|\\[()\\])*\)$/);
      expect(literal.slice(1, -1).replace(/\\([()\\])/g, '$1')).toBe(codes);
    }),
  );
});

test('a fitted text is never wider than its place, and untouched where it fits', () => {
  fc.assert(
    fc.property(anyText, fc.integer({ min: 10, max: 200 }), (text, limit) => {
      const codes = winAnsi(text);
      const fitted = fitCodes(codes, widths, 7, limit);
      expect(widthOfCodes(fitted, widths, 7)).toBeLessThanOrEqual(limit);
      if (widthOfCodes(codes, widths, 7) <= limit) expect(fitted).toBe(codes);
    }),
  );
});
