// ZIP Codes: form, known prefixes, and the zero that a spreadsheet dropped.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkZip, zip5Of } from './zip.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const SHARED = process.env.COUNTERMARK_SHARED_DATA ?? join(ROOT, '../shared/data');
const L601 = join(SHARED, 'postal/usps-DMM_L601-2025-05-01.csv');

describe('a ZIP Code', () => {
  it.each(['02139', '00501', '00901', '10001', '99950', '02139-4307'])('is accepted as %s', (text) => {
    const checked = checkZip(text);
    expect(checked).toEqual({ ok: true, value: text });
    expect(checked.ok && zip5Of(checked.value)).toBe(text.slice(0, 5));
  });

  it.each([
    ['2139', 'zip-lost-zero', /write 02139: a spreadsheet dropped/],
    ['501', 'zip-lost-zero', /write 00501:/],
    ['2139-4307', 'zip-lost-zero', /write 02139-4307:/],
    ['21394307', 'zip-lost-zero', /write 02139-4307:/],
    ['5014307', 'zip-lost-zero', /write 00501-4307:/],
    ['00412', 'zip-unknown-prefix', /begins with 004/],
    ['21399', 'zip-unknown-prefix', /begins with 213/],
    ['99999-0000', null, null],
    ['98712', 'zip-unknown-prefix', /begins with 987/],
    ['021394307', 'zip-malformed', /write 02139-4307/],
    ['213', 'zip-malformed', /five digits/],
    ['', 'zip-malformed', /five digits/],
    ['0213', 'zip-malformed', /five digits/],
    ['021390', 'zip-malformed', /five digits/],
    ['02139-43', 'zip-malformed', /five digits/],
    ['02139 4307', 'zip-malformed', /five digits/],
    ['021394307-4307', 'zip-malformed', /five digits/],
    ['K1A 0B1', 'zip-malformed', /five digits/],
    ['٠٢١٣٩', 'zip-malformed', /five digits/],
    ['02139\n', 'zip-malformed', /five digits/],
  ])('%j is answered with %s and a cure', (text, code, cure) => {
    const checked = checkZip(text);
    if (code === null) {
      expect(checked.ok).toBe(true);
      return;
    }
    expect(checked).toMatchObject({ ok: false, defect: { code, field: 'zip', value: text } });
    expect(!checked.ok && checked.defect.cure).toMatch(cure);
  });

  it('that is accepted loses its zeros to a spreadsheet and gets them back from the cure', () => {
    fc.assert(
      fc.property(fc.integer({ min: 501, max: 9_999 }), (number) => {
        const zip = String(number).padStart(5, '0');
        const checked = checkZip(String(number));
        expect(checked.ok).toBe(false);
        if (checkZip(zip).ok) expect(!checked.ok && checked.defect.cure).toContain(`write ${zip}:`);
      }),
    );
  });

  it('of any text is answered and never throws', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9-]{0,12}$/)), (text) => {
        const checked = checkZip(text);
        if (checked.ok) expect(text).toMatch(/^\d{5}(-\d{4})?$/);
        else expect(checked.defect).toMatchObject({ field: 'zip', value: text });
      }),
    );
  });
});

describe.skipIf(!existsSync(L601))(`DMM L601 (skipped where the shared data is missing)`, () => {
  it('has exactly the prefixes that are accepted', () => {
    const listed = new Set<number>();
    for (const line of readFileSync(L601, 'utf8').split('\n')) {
      const ranges = /^"\t([\d, -]+)"/.exec(line)?.[1];
      for (const range of ranges?.split(',') ?? []) {
        const [first = '', last = first] = range.trim().split('-');
        for (let prefix = Number(first); prefix <= Number(last); prefix += 1) listed.add(prefix);
      }
    }
    const accepted = Array.from({ length: 1000 }, (_, prefix) => prefix).filter(
      (prefix) => checkZip(`${String(prefix).padStart(3, '0')}01`).ok,
    );
    expect(new Set(accepted)).toEqual(listed);
    expect(listed.size).toBe(931);
  });
});
