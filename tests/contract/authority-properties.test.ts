/**
 * For any mail of any devices, delivered in any interleaving, cut and repeated anyhow: the grants add up to what a plain
 * reckoning over all records owes, and the totals to what the registers moved by.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GrantSigner } from '@countermark/authority/grant';
import { takeIn } from '@countermark/authority/intake';
import { loadProgrammes, shippedProgrammeFiles } from '@countermark/authority/programmes';
import { rateStatistics, shippedTariffs } from '@countermark/authority/rating';
import { settle } from '@countermark/authority/settlement';
import { openAuthorityStore } from '@countermark/authority/store/sql-store';
import { parseTotalsQuery } from '@countermark/authority/totals';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { digestText } from '@countermark/protocol/digest';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { reckon } from '@countermark/tariff/programme-reckoning';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type BatchOptions, delivery, type Franked, Roles, TestDevice } from './authority-evidence.ts';
import { quiet, valueOf } from './authority-process.ts';

const roles = new Roles();
const key = generateSigningKey();
const signer: GrantSigner = {
  epoch: 1,
  publicKey: publicKeyBytes(key.publicKey),
  certificates: [],
  keys: () => ({ publicKey: publicKeyBytes(key.publicKey), authentication: 'signature' }),
  sign: (bytes) => Promise.resolve(signP1363(key.privateKey, bytes)),
};
const grantingTrust = {
  port: nodeVerification,
  keys: () => ({ publicKey: signer.publicKey, authentication: 'signature' as const }),
};
const tariffs = shippedTariffs();

const batch = fc.record({
  device: fc.nat(2),
  customer: fc.constantFrom('alder-press', 'birch-mutual', null),
  mailingDate: fc.constantFrom('2026-03-02', '2026-03-03', '2027-01-01'),
  fate: fc.constantFrom('good', 'good', 'good', 'underpaid', 'incomplete', 'spoiled'),
  pieces: fc.integer({ min: 1, max: 900 }),
  level: fc.constantFrom('5-digit', 'aadc', 'mixed-aadc'),
  more: fc.nat(400),
});

function franked(device: TestDevice, of: typeof batch extends fc.Arbitrary<infer T> ? T : never): Franked {
  const options: BatchOptions = {
    ...(of.customer === null ? {} : { customer: of.customer }),
    mailingDate: of.mailingDate,
    incomplete: of.fate === 'incomplete',
    spoiled: of.fate === 'spoiled' ? 2 : 0,
  };
  return device.frank(
    [
      { level: of.level, pieces: of.pieces, ...(of.fate === 'underpaid' ? { affixedMills: 700n } : {}) },
      ...(of.more === 0 ? [] : [{ level: 'single-piece', pieces: of.more }]),
    ],
    options,
  );
}

test('grants add up to the entitlement, and totals to the registers', async () => {
  const programmes = valueOf(await loadProgrammes(await shippedProgrammeFiles()));
  const folder = mkdtempSync(join(tmpdir(), 'authority-properties-'));
  let run = 0;
  try {
    await fc.assert(
      fc.asyncProperty(
        fc.array(batch, { minLength: 1, maxLength: 12 }),
        fc.infiniteStream(fc.nat(1_000)),
        async (batches, choices) => {
          const choose = (bound: number): number => (choices.next().value as number) % bound;
          run += 1;
          const devices = [
            new TestDevice(roles, 'lic_one'),
            new TestDevice(roles, 'lic_one', 'mac'),
            new TestDevice(roles, 'lic_two'),
          ];
          const items = batches.map((of) => ({ of, item: franked(devices[of.device]!, of) }));
          const store = await openAuthorityStore(`sqlite://${join(folder, `${run}.db`)}`);
          try {
            await store.addProgrammes(programmes);
            const options = { store, roles: trustedKeys(roles.bundle), nowMs: () => 1, log: quiet };
            // Each device's records in their order, the devices interleaved anyhow.
            const queues = devices.map((_, i) => items.filter(({ of }) => of.device === i).map(({ item }) => item));
            const order: Franked[] = [];
            while (queues.some((queue) => queue.length > 0)) {
              const waiting = queues.filter((queue) => queue.length > 0);
              order.push(waiting[choose(waiting.length)]!.shift()!);
            }
            let taken = 0;
            while (taken < order.length) {
              // Back by some, on by some: repetitions and cuts.
              const from = Math.max(0, taken - choose(3));
              const to = Math.min(order.length, taken + 1 + choose(4));
              await takeIn(delivery(devices, order.slice(from, to)), options);
              taken = to;
              if (choose(2) === 0) await settle({ store, programmes, tariffs, signer, nowMs: () => 1, log: quiet });
            }
            await settle({ store, programmes, tariffs, signer, nowMs: () => 1, log: quiet });

            const granted = new Map<string, bigint>();
            const evidence = new Map<string, string[]>();
            for (const { grant } of await store.grants(0, 1_000)) {
              const discount = verifyMessage(DISCOUNT_GRANT, grant, grantingTrust);
              const { message } = valueOf(discount.ok ? discount : verifyMessage(CREDIT_GRANT, grant, grantingTrust));
              const group = `${message.programme} ${message.licensee} ${message.customer ?? ''} ${message.period}`;
              granted.set(group, (granted.get(group) ?? 0n) + message.amountMills);
              evidence.set(group, [...(evidence.get(group) ?? []), ...message.evidence.map(digestText)]);
            }
            const rated = items.map(({ item }) => ({
              digest: digestText(item.digest),
              cells: rateStatistics(item.statistics, { authentication: 'signature', suspended: false }, tariffs),
            }));
            const paid = rated.flatMap(({ cells }) => cells).filter(({ standing }) => standing === 'paid');
            const owed = new Map<string, bigint>();
            for (const programme of programmes) {
              for (const one of reckon(programme, paid)) {
                if (one.entitlementMills === 0n) continue;
                owed.set(`${programme.id} ${one.licensee} ${one.customer ?? ''} ${one.period}`, one.entitlementMills);
              }
            }
            expect(granted).toEqual(owed);
            // Every record at most once in the chain of a grant, and only such as count.
            for (const digests of evidence.values()) {
              expect(new Set(digests).size).toBe(digests.length);
              for (const digest of digests) {
                const { cells } = rated.find((one) => one.digest === digest)!;
                expect(cells.some(({ standing }) => standing === 'paid')).toBe(true);
              }
            }

            const { rows, rolled } = await store.totals(valueOf(parseTotalsQuery({ by: 'licensee' })), 10);
            expect(rolled).toBe(items.length);
            const moved = new Map<string, [bigint, bigint]>();
            for (const { item } of items) {
              const { licensee, observed } = item.statistics;
              const [pieces, postage] = moved.get(licensee) ?? [0n, 0n];
              moved.set(licensee, [
                pieces + BigInt(observed.closed.pieces - observed.opened.pieces),
                postage + observed.closed.ascendingMills - observed.opened.ascendingMills,
              ]);
            }
            expect(new Map(rows.map((row) => [row.values[0], [row.pieces, row.postageMills]]))).toEqual(moved);
          } finally {
            await store.close();
          }
        },
      ),
      { numRuns: 40 },
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
