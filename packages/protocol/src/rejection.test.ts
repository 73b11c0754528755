import { describe, expect, it } from 'vitest';
import { CATALOGUE, type RejectionCode } from './rejection-catalogue.ts';
import { describeRejection, rejection } from './rejection.ts';

describe('describeRejection', () => {
  it.each(Object.keys(CATALOGUE) as RejectionCode[])(
    'fills in every detail that %s names, in all its sentences',
    (code) => {
      const { happened, state, cure } = CATALOGUE[code];
      const names = [...`${happened} ${state} ${cure}`.matchAll(/\{(\w+)\}/g)].map(([, name]) => String(name));
      const text = describeRejection(rejection(code, Object.fromEntries(names.map((name) => [name, `<${name}>`]))));
      expect(text).not.toMatch(/[{}?]/);
      for (const name of names) expect(text).toContain(`<${name}>`);
    },
  );

  it('puts details in as they are', () => {
    const refused = rejection('file-rows', {
      bad: 1,
      rows: 2,
      file: 'a.csv',
      row: 2,
      field: 'zip',
      reason: '{file}: $&',
      errorsFile: 'e',
    });
    expect(describeRejection(refused)).toContain('row 2, zip: {file}: $&.');
  });

  it('says amounts in their currency where it is named, else in mills', () => {
    const amounts = { neededMills: '1137890', availableMills: 600 };
    expect(describeRejection(rejection('insufficient-funds', amounts))).toContain('needs 1137890 mills;');
    const refused = rejection('insufficient-funds', { ...amounts, currency: 'USD', exponent: 3 });
    expect(describeRejection(refused)).toContain('The chunk needs USD 1,137.890; the device holds USD 0.600.');
  });
});
