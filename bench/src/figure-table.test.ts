import { describe, expect, test } from 'vitest';
import { figure, figureOfLimit, unmeasured } from './figure.ts';
import { figureJson, figureTable } from './figure-table.ts';

const LIMITS = { signsPerSecond: 40_000, verifiesPerSecond: 15_000, fsyncsPerSecond: 1_000, commitsPerSecond: 900 };

describe('a goal', () => {
  test('is of the value where there is no limit', () => {
    expect(figure('pages', 999, 'indicia/s', { atLeast: 1_000 }).met).toBe(false);
    expect(figure('pages', 1_000, 'indicia/s', { atLeast: 1_000 }).met).toBe(true);
    expect(figure('start', 3, 's', { atMost: 3 }).met).toBe(true);
    expect(figure('start', 3.01, 's', { atMost: 3 }).met).toBe(false);
  });

  test('is of the ratio where there is one', () => {
    expect(figureOfLimit('mailing', 19_000, 'rows/s', 40_000, { atLeast: 0.5 })).toMatchObject({
      ratio: 0.475,
      met: false,
    });
    expect(figureOfLimit('mailing', 20_000, 'rows/s', 40_000, { atLeast: 0.5 }).met).toBe(true);
  });

  test('is not judged where there is none, or nothing was measured', () => {
    expect(figure('frank-single:p50', 1, 'ms').met).toBeNull();
    expect(unmeasured('memory', 'MB', { atMost: 1.15 }).met).toBeNull();
  });
});

describe('figures as JSON', () => {
  const figures = [
    figureOfLimit('frank-chunks', 50_123.456, 'pieces/s', 40_000, { atLeast: 1.2 }),
    unmeasured('memory', 'MB', { atMost: 1.15 }),
  ];

  test('have exactly the fields that their readers know', () => {
    const parsed = JSON.parse(figureJson(LIMITS, figures)) as Record<string, unknown>;
    expect(parsed).toEqual({
      limits: LIMITS,
      figures: [
        { name: 'frank-chunks', value: 50_120, unit: 'pieces/s', ratio: 1.253, goal: 1.2, met: true },
        { name: 'memory', value: null, unit: 'MB', ratio: null, goal: 1.15, met: null },
      ],
    });
  });

  test('and as a table say when a goal was missed', () => {
    const table = figureTable(LIMITS, [figure('start', 3.5, 's', { atMost: 3 }), ...figures]);
    expect(table).toMatch(/^start .* at most 3 +MISSED$/m);
    expect(table).toMatch(/^frank-chunks +50,120 +pieces\/s +1\.25 +at least 1\.2 +met$/m);
    expect(table).toMatch(/^memory +- +MB/m);
  });
});
