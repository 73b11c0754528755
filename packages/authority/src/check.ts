/**
 * `check`: reads the authority's store from the first record and says in words what is wrong.
 *
 * Guarantees to find: a record that is missing, altered, out of its chain or not attested; a device whose stored head is
 * not that of its chain; cells that are not those of their record, totals that are not their cells; a grant that is altered, out of
 * its chain, or whose amounts do not continue, or that rests on a record that is not here; an entitlement that is not what the
 * records entitle to under its programme, where no evaluation is outstanding. Changes nothing, and makes no store or key where
 * there is none. Records are read page by page; kept in memory are heads, totals and the last revision of each grant.
 * A start asks the same of the last records and grants only (`record-check.ts`).
 */
import { existsSync } from 'node:fs';
import { Examination } from '@countermark/node-platform/examination';
import { type Digest, digestText, sameBytes } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import type { Grant } from '@countermark/protocol/messages/grant';
import { describeFinding } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import type { Programme } from '@countermark/tariff/programme';
import { beneficiaryOf, periodDays, periodOf, reckon, selects } from '@countermark/tariff/programme-reckoning';
import { CHAIN_START, type ChainHead } from '@countermark/verify/chain';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import type { KeySource } from '@countermark/verify/verified';
import { grantKeyPath, openParts } from './authority.ts';
import type { Config } from './config.ts';
import { loadProgrammes, programmeFiles } from './programmes.ts';
import { shippedTariffs } from './rating.ts';
import { headAfter, headProblem, judgedRecord, keysOf, nameOf, verifiedGrant } from './record-check.ts';
import { cellsOf } from './settlement.ts';
import type { AuthorityStore } from './store/authority-store.ts';

const PAGE = 200;

/** What is wrong, a sentence each. Rejections: those of opening. Testimony: `intake` once, `head` and `grant` of each. */
export async function checkAuthority(
  config: Config,
  examination = new Examination(),
): Promise<Result<readonly string[]>> {
  const file = config.database.startsWith('sqlite:') ? [decodeURIComponent(new URL(config.database).pathname)] : [];
  for (const path of [grantKeyPath(config), ...file]) {
    if (!existsSync(path)) examination.problem(`There is no ${path}.`);
  }
  if (examination.problems.length > 0) return accept(examination.problems);
  const opened = await openParts(config);
  if (!opened.ok) return opened;
  const { store, bundle, signer } = opened.value;
  try {
    for (const problem of await store.pageProblems()) examination.problem(problem);
    if (examination.problems.length > 0) return accept(examination.problems);
    await checkRecords(store, trustedKeys(bundle), examination);
    await checkTotals(store, examination);
    await checkGrants(store, signer.keys, examination);
    const programmes = await loadProgrammes(await programmeFiles(config));
    if (programmes.ok) await checkEntitlements(store, programmes.value, examination);
    return accept(examination.problems);
  } finally {
    await store.close();
  }
}

async function checkRecords(store: AuthorityStore, roles: KeySource, examination: Examination): Promise<void> {
  const heads = new Map<DeviceId, ChainHead | null>();
  const tariffs = shippedTariffs();
  const { intake, rolled, grants } = await store.positions();
  if (rolled > intake) examination.problem(`The totals stand at ${rolled}; the log ends at ${intake}.`);
  let cursor = 0;
  for (;;) {
    const page = await store.records(cursor, PAGE);
    if (page.length === 0) break;
    const keys = await keysOf(page, store);
    const cells = await store.cells(page[0]?.cursor ?? 0, page.at(-1)?.cursor ?? 0);
    for (const record of page) {
      const name = nameOf(record);
      if (record.cursor !== cursor + 1) examination.problem(`${name}: the one before is missing.`);
      cursor = record.cursor;
      const before = heads.get(record.device);
      const judged = judgedRecord(record, before === undefined ? CHAIN_START : before, keys, roles);
      if (typeof judged === 'string') {
        examination.problem(`${name} ${judged}`);
        // A break is told once: what follows is judged by what stands before it, or where that cannot be read, not at all.
        heads.set(record.device, headAfter(record));
        continue;
      }
      heads.set(record.device, judged);
      const expected = record.cursor > rolled ? [] : cellsOf(record, tariffs);
      const found = cells.get(record.cursor) ?? [];
      const same =
        found.length === expected.length &&
        expected.every((cell, i) => {
          const row = found[i];
          return (
            row?.pieces === cell.pieces &&
            row.postageMills === cell.postageMills &&
            row.standing === cell.standing &&
            row.customer === cell.customer &&
            row.licensee === cell.licensee &&
            row.level === cell.key.level
          );
        });
      if (!same) {
        const pieces = (of: readonly { readonly pieces: number }[]): number =>
          of.reduce((sum, cell) => sum + cell.pieces, 0);
        examination.problem(
          `${name}: the cells that were counted are not its own: ${pieces(found)} pieces in ${found.length} cells, where ${pieces(expected)} in ${expected.length} are right.`,
        );
      }
    }
    examination.progress('records', cursor, intake);
  }
  if (cursor !== intake) examination.problem(`The log ends at ${cursor}; its position is ${intake}.`);
  examination.testify({ party: 'authority', kind: 'intake', intake, rolled, grants });
  for (const [device, head] of heads) {
    if (head === null) continue;
    const stored = await store.device(device);
    if (stored === null || !sameBytes(stored.head.digest, head.digest)) examination.problem(headProblem(device, head));
    examination.testify({
      party: 'authority',
      kind: 'head',
      device,
      sequence: head.sequence,
      digest: digestText(head.digest),
    });
  }
}

/** Every total is the sum of its cells. */
async function checkTotals(store: AuthorityStore, examination: Examination): Promise<void> {
  for (const { key, pieces, postageMills, cellPieces, cellPostageMills } of await store.wrongTotals(20)) {
    examination.problem(
      `The total ${key} has ${pieces} pieces for ${postageMills} mills; its cells have ${cellPieces} for ${cellPostageMills}.`,
    );
  }
}

async function checkGrants(store: AuthorityStore, keys: KeySource, examination: Examination): Promise<void> {
  const last = new Map<
    string,
    { readonly grant: Pick<Grant, 'revision' | 'entitlementMills'>; readonly digest: Digest }
  >();
  const { grants } = await store.positions();
  const gaps = await store.grantGaps();
  let cursor = 0;
  for (;;) {
    const page = await store.grants(cursor, PAGE);
    if (page.length === 0) break;
    for (const item of page) {
      const name = `Grant ${item.cursor}`;
      if (item.cursor !== (gaps.get(cursor) ?? cursor) + 1) examination.problem(`${name}: the one before is missing.`);
      cursor = item.cursor;
      const verified = verifiedGrant(item, keys);
      if (!verified.ok) {
        examination.problem(`${name}: ${describeFinding(verified.rejection)}`);
        continue;
      }
      const { message, digest } = verified.value;
      const { programme, programmeVersion, licensee, customer, period, revision, entitlementMills } = message;
      examination.testify({ party: 'authority', kind: 'grant', cursor, digest: digestText(digest) });
      const group = `${programme} ${programmeVersion} ${licensee} ${customer ?? ''} ${period}`;
      const before = last.get(group);
      last.set(group, { grant: { revision, entitlementMills }, digest });
      const continues =
        before === undefined
          ? revision === 1 && message.previous === undefined && message.grantedBeforeMills === 0n
          : revision === before.grant.revision + 1 &&
            message.previous !== undefined &&
            sameBytes(message.previous, before.digest) &&
            message.grantedBeforeMills === before.grant.entitlementMills;
      if (!continues) examination.problem(`${name} does not continue the revision before it.`);
      if (message.amountMills !== entitlementMills - message.grantedBeforeMills) {
        examination.problem(`${name}: its amount is not entitlement minus what was granted before.`);
      }
      if (!sameBytes(item.digest, digest)) examination.problem(`${name} is stored under another digest.`);
      const stored = await store.grantColumns(item.cursor);
      if (
        stored?.programme !== programme ||
        stored.version !== programmeVersion ||
        stored.licensee !== licensee ||
        stored.customer !== (customer ?? null) ||
        stored.period !== period ||
        stored.revision !== revision ||
        stored.amountMills !== message.amountMills ||
        stored.entitlementMills !== entitlementMills
      ) {
        examination.problem(`${name} is stored with another beneficiary, period, revision or amount than it says.`);
      }
      const missing = await store.missingEvidence(message.evidence, stored?.through ?? 0);
      for (const one of missing.slice(0, 3)) {
        examination.problem(`${name} rests on the record ${digestText(one)}, which is not in the log before it.`);
      }
    }
    examination.progress('grants', cursor, grants);
  }
  if ((gaps.get(cursor) ?? cursor) !== grants)
    examination.problem(`The last grant is ${cursor}; their position is ${grants}.`);
}

/** What was granted so far is what the records entitle to, wherever a programme was evaluated through all of them. */
async function checkEntitlements(
  store: AuthorityStore,
  programmes: readonly Programme[],
  examination: Examination,
): Promise<void> {
  const { rolled } = await store.positions();
  for (const programme of programmes) {
    const state = (await store.programmes()).find(
      ({ id, version }) => id === programme.id && version === programme.version,
    );
    if (state?.evaluated !== rolled) continue;
    const done = new Set<string>();
    for (const touched of await store.touched(0, rolled)) {
      const beneficiary = beneficiaryOf(programme, touched);
      const period = periodOf(programme, touched.mailingDate);
      const group = `${beneficiary.licensee} ${beneficiary.customer ?? ''} ${period}`;
      if (done.has(group)) continue;
      done.add(group);
      const { from, to } = periodDays(programme, touched.mailingDate);
      const customer = programme.beneficiary === 'customer' ? beneficiary.customer : undefined;
      const totals = await store.totalsOf(beneficiary.licensee, customer, from, to);
      const counted = totals.filter((total) => total.standing === 'paid' && selects(programme, total));
      const entitlementMills = reckon(programme, counted)[0]?.entitlementMills ?? 0n;
      const identity = { ...beneficiary, programme: programme.id, version: programme.version, period };
      const grantedMills = (await store.lastGrant(identity))?.entitlementMills ?? 0n;
      if (grantedMills !== entitlementMills) {
        const whom =
          beneficiary.customer === null ? beneficiary.licensee : `${beneficiary.customer} of ${beneficiary.licensee}`;
        examination.problem(
          `${whom} was granted ${grantedMills} mills under ${programme.id}, ${period}; the records entitle to ${entitlementMills}.`,
        );
      }
    }
  }
}
