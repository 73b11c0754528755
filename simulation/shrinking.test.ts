/**
 * Shrinking against a made-up world, in which two kinds of faults, the fifth fault and three mailings are what it takes.
 */
import { describe, expect, it } from 'vitest';

type Replay = {
  readonly seed: string;
  readonly without?: readonly string[];
  readonly mailings?: number;
  readonly faults?: number;
};
type Play = (replay: Replay) => Promise<{ violation: { checker: string } | null; faultKinds: readonly string[] }>;

const module = './shrinking.mjs';
const { shrink } = (await import(module)) as { shrink: (whole: Replay, play: Play) => Promise<Replay> };

const faultKinds = ['kills', 'messages lost', 'power cuts', 'disks full'];

const world: Play = async ({ without = [], mailings = 20, faults = 300 }) => {
  const fails = !without.includes('kills') && !without.includes('disks full') && mailings >= 3 && faults >= 5;
  // A smaller world that fails otherwise is not the same failure.
  const other = mailings < 2 ? { checker: 'convergence' } : null;
  return { violation: fails ? { checker: 'ledger' } : other, faultKinds };
};

describe('Shrinking', () => {
  it('leaves out what the failure does not need, and nothing else', async () => {
    expect(await shrink({ seed: '7' }, world)).toEqual({
      seed: '7',
      without: ['messages lost', 'power cuts'],
      mailings: 3,
      faults: 5,
    });
  });

  it('leaves a run that does not fail as it is', async () => {
    const whole = { seed: '7', without: ['kills'] };
    expect(await shrink(whole, world)).toBe(whole);
  });
});
