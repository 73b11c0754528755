import { describe, expect, test } from 'vitest';
import { formatPairs, formatTable } from './table.ts';

describe('a table', () => {
  test('lines up, with numbers to the right and a total below a rule', () => {
    const text = formatTable(
      [{ heading: 'Customer' }, { heading: 'Pieces', right: true }],
      [
        ['alder-press', '749'],
        ['é̈zra', '1'],
        ['木', '12'],
      ],
      { total: ['Total', '762'] },
    );
    expect(text.split('\n')).toEqual([
      'Customer     Pieces',
      'alder-press     749',
      'é̈zra              1',
      '木               12',
      '-----------  ------',
      'Total           762',
    ]);
  });

  test('shows no control character of the data', () => {
    expect(formatTable([{ heading: 'Name' }], [['a\u001b[2Jb\nc']])).toBe('Name\na?[2Jb?c');
  });

  test('of no rows is its heading', () => {
    expect(formatTable([{ heading: 'Batch' }, { heading: 'Pieces', right: true }], [])).toBe('Batch  Pieces');
  });

  test('of pairs lines the values up', () => {
    expect(
      formatPairs([
        ['Used', 'USD 1.000'],
        ['Control total', 'USD 2.000'],
      ]),
    ).toBe('Used           USD 1.000\nControl total  USD 2.000');
  });
});
