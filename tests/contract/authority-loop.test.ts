/**
 * The postal authority from delivery to grant, over HTTP: what the sample mailing earns, whom it reaches, and that nothing is
 * counted or granted twice.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { digestText } from '@countermark/protocol/digest';
import type { Cell } from '@countermark/protocol/cell';
import { mills } from '@countermark/protocol/money';
import { afterEach, describe, expect, test } from 'vitest';
import { delivery, type Franked, Roles, TestDevice } from './authority-evidence.ts';
import { checkAuthority } from '@countermark/authority/check';
import { TestAuthority } from './authority-process.ts';

const started: TestAuthority[] = [];

async function authority(...settings: ConstructorParameters<typeof TestAuthority>): Promise<TestAuthority> {
  const made = new TestAuthority(...settings);
  started.push(made);
  await made.start();
  return made;
}

afterEach(async () => {
  for (const one of started.splice(0)) await one.discard();
});

type Expected = {
  customers: {
    customer: string;
    pieces: number;
    discountMills: string;
    growthCreditMills: string;
    cells: (Cell['key'] & { pieces: number; postageMills: string })[];
  }[];
};
const expected = JSON.parse(
  readFileSync(new URL('../../samples/expected.json', import.meta.url), 'utf8'),
) as Expected;

/** A batch for each customer and product, as the host franks the sample. */
function sample(device: TestDevice): Franked[] {
  return expected.customers.flatMap(({ customer, cells }) =>
    [...new Set(cells.map(({ product }) => product))].map((product) => {
      const own = cells.filter((cell) => cell.product === product);
      return device.frank(
        own.map(({ level, pieces, weightStep }) => ({ level, pieces, weightStep })),
        { customer, product },
      );
    }),
  );
}

describe('the sample mailing', () => {
  test('earns what an independent reckoning says, for the right customers', async () => {
    const roles = new Roles();
    const device = new TestDevice(roles);
    const postal = await authority(roles);
    const items = sample(device);
    const answers = await postal.deliver(delivery([device], items));
    expect(answers.results.map(({ outcome }) => outcome)).toEqual(items.map(() => 'accepted'));
    const grants = await postal.grants(answers.cursor);

    const earned = (kind: 'discount' | 'credit') =>
      Object.fromEntries(
        expected.customers.map(({ customer }) => [
          customer,
          grants
            .filter((one) => one.kind === kind && one.grant.customer === customer)
            .reduce((sum, { grant }) => sum + grant.amountMills, 0n)
            .toString(),
        ]),
      );
    expect(earned('discount')).toEqual(
      Object.fromEntries(expected.customers.map(({ customer, discountMills }) => [customer, discountMills])),
    );
    expect(earned('credit')).toEqual(
      Object.fromEntries(expected.customers.map(({ customer, growthCreditMills }) => [customer, growthCreditMills])),
    );
    for (const { grant } of grants) {
      const own = items.filter(({ statistics }) => statistics.declaration.customer === grant.customer);
      expect(grant.evidence.map(digestText)).toEqual(own.map(({ digest }) => digestText(digest)));
      expect(grant.demonstration).toBe(true);
      expect(grant.reasons.length).toBeGreaterThan(3);
    }
  });
});
