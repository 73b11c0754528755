/**
 * The short run of the kills: 30 of them, with every named crash point among them, in the four combinations of memory and
 * transport. The long one: npm run crash -- kills.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root } from '../installation.ts';
import { Chance } from './chance.ts';
import { CRASH_POINTS } from './crash-points.ts';
import { killPlan, WAYS } from './kill-plan.ts';
import { runKills } from './kills.ts';

/** Its first 30 kills come by every point, and each process dies at random once. */
const SEED = 32;

describe('The named crash points', () => {
  it('are those of the table in ARCHITECTURE.md, and all of it', () => {
    const text = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8');
    const [, table = ''] = /## What is lost at each crash point[^\n]*\n\n(.*?)\n\n/s.exec(text) ?? [];
    const rows = table.split('\n').map((row) => row.split('|')[1]?.trim() ?? '');
    expect(new Set(CRASH_POINTS.map(({ row }) => row))).toEqual(new Set(rows.slice(2)));
    expect(new Set(CRASH_POINTS.map(({ name }) => name)).size).toBe(CRASH_POINTS.length);
  });

  it('are all in a plan of 30 kills, and a longer plan begins like a shorter one', () => {
    const plan = (kills: number) => killPlan(kills, new Chance(SEED)).flatMap((round) => round.kills);
    const points = plan(30).flatMap((kill) => (kill.at === 'point' ? [kill.point.name] : []));
    expect(new Set(points)).toEqual(new Set(CRASH_POINTS.map(({ name }) => name)));
    expect(plan(300).slice(0, 30)).toEqual(plan(30));
  });

  it('are each come by in every combination in a plan of 300', () => {
    for (const way of WAYS) {
      const kills = killPlan(300, new Chance(SEED)).filter((round) => round.way === way);
      const names = kills.flatMap((round) => round.kills).flatMap((kill) => (kill.at === 'point' ? [kill.point] : []));
      const own = CRASH_POINTS.filter(({ records }) => records === undefined || records === way.records);
      expect(new Set(names)).toEqual(new Set(own));
    }
  });
});

describe('Processes killed while mailings run', () => {
  it('lose nothing, and count nothing twice', async () => {
    const report = await runKills({ kills: 30, seed: SEED, say: () => undefined });
    expect(report.violations).toEqual([]);
    expect(report.deaths.length).toBe(30);
    expect(new Set(report.deaths.map(({ party }) => party)).size).toBe(5);
    expect(new Set(report.deaths.map(({ way }) => way)).size).toBe(4);
    expect(report.checks).toBeGreaterThanOrEqual(30);
  });
});
