import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GroupedWork } from './grouped-work.ts';

describe('Grouped work', () => {
  it('does every item once, in order, and gives each caller its own outcomes', async () => {
    const requests = fc.array(fc.array(fc.nat(1_000), { maxLength: 6 }), { maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(requests, fc.integer({ min: 1, max: 8 }), async (asked, most) => {
        const units: number[][] = [];
        const work = new GroupedWork<number, string>(async (items) => {
          units.push([...items]);
          await Promise.resolve();
          return items.map((item) => `did ${item}`);
        }, most);
        const outcomes = await Promise.all(asked.map((items) => work.run(items)));
        expect(outcomes).toEqual(asked.map((items) => items.map((item) => `did ${item}`)));
        expect(units.flat()).toEqual(asked.flat());
        const largest = Math.max(most, ...asked.map((items) => items.length));
        expect(units.every((unit) => unit.length <= largest)).toBe(true);
      }),
    );
  });

  it('tells a failure to those whose items were in the unit, and goes on with the next', async () => {
    let units = 0;
    const work = new GroupedWork<number, number>(async (items) => {
      units += 1;
      await Promise.resolve();
      if (items.includes(13)) throw new Error('thirteen');
      return items;
    }, 2);
    const outcomes = await Promise.allSettled([work.run([1]), work.run([13]), work.run([2]), work.run([3, 4, 5])]);
    expect(outcomes.map((one) => one.status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
    expect(units).toBe(3);
    expect(await work.run([6])).toEqual([6]);
  });
});
