/**
 * A refill and a device's end, cut off at each of their named points, in one combination. All four: npm run crash -- interruptions.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root } from '../installation.ts';
import { type CrashPoint, END_POINTS, REFILL_POINTS } from './crash-points.ts';
import { runInterruptions } from './interruptions.ts';
import { WAYS } from './kill-plan.ts';

describe('The named points of a refill and of a device’s end', () => {
  it.each<readonly [string, readonly CrashPoint[]]>([
    ['An interrupted refill', REFILL_POINTS],
    ['The end of a device', END_POINTS],
  ])('are those of the table "%s" in ARCHITECTURE.md, and all of it', (title, points) => {
    const text = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8');
    const [, table = ''] = new RegExp(`## ${title}\\n.*?\\n\\n(\\|.*?)\\n\\n`, 's').exec(text) ?? [];
    const rows = table.split('\n').map((row) => row.split('|')[1]?.trim() ?? '');
    expect(new Set(points.map(({ row }) => row))).toEqual(new Set(rows.slice(2)));
    expect(new Set(points.map(({ name }) => name)).size).toBe(points.length);
  });
});

describe('A refill that is cut off, and a device that is closed while everybody is killed', () => {
  const ways = WAYS.filter((way) => way.records === 'host' && way.transport === 'session');

  it('come to their end by themselves, once', async () => {
    const { deaths, violations, checks } = await runInterruptions({ ways, say: () => undefined });
    expect(violations).toEqual([]);
    expect(deaths.length).toBe(ways.length * (REFILL_POINTS.length + END_POINTS.length));
    expect(checks).toBeGreaterThanOrEqual(deaths.length);
  });
});
