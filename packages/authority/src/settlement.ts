/**
 * Settlement: what follows the log. Totals are rolled on record by record, then every programme is evaluated for the
 * beneficiaries and periods that the new records touch.
 *
 * Guarantees: totals move on only when every programme has been evaluated through them, so that an evaluation always sees
 * exactly the records up to its position; each step is one transaction that is done by one worker or by none, and what a
 * crash leaves half done is done at the next start. Grants leave the authority only with the position that they rest on.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import { parsePayload } from '@countermark/protocol/message';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import type { Log } from '@countermark/node-platform/logs';
import type { Programme } from '@countermark/tariff/programme';
import { beneficiaryOf, periodDays, periodOf, reckon, selects } from '@countermark/tariff/programme-reckoning';
import { type Draft, type GrantSigner, isDue, signGrants } from './grant.ts';
import { type RatedCell, rateStatistics, type TariffSource } from './rating.ts';
import type { AuthorityStore, SignedGrant, StoredRecord, StoredTotal } from './store/authority-store.ts';

export type SettlementOptions = {
  readonly store: AuthorityStore;
  readonly programmes: readonly Programme[];
  readonly tariffs: TariffSource;
  readonly signer: GrantSigner;
  readonly nowMs: () => number;
  readonly log: Log;
};

/** Records that the totals are taken on by at once. */
const STEP = 512;

/** Brings totals and grants up to the log. Returns the intake cursor through which every programme was evaluated. */
export async function settle(options: SettlementOptions): Promise<number> {
  const { store, programmes, tariffs } = options;
  for (;;) {
    const { rolled } = await store.positions();
    for (const programme of programmes) await evaluate(programme, rolled, options);
    const next = await store.roll(rolled, STEP, (record) => cellsOf(record, tariffs));
    if (next === rolled) return rolled;
  }
}

/** A record's cells; none of a key rotation. */
export function cellsOf(record: StoredRecord, tariffs: TariffSource): readonly RatedCell[] {
  if (record.type !== 'batch-statistics') return [];
  const envelope = parseEnvelope(record.bytes);
  const statistics = envelope.ok ? parsePayload(BATCH_STATISTICS, envelope.value) : envelope;
  if (!envelope.ok || !statistics.ok)
    throw new Error(`The stored record ${record.device} ${record.sequence} is broken.`);
  const { authentication } = envelope.value;
  return rateStatistics(statistics.value, { authentication, suspended: record.suspended }, tariffs);
}

/** Evaluates one programme through a position that the totals have. */
async function evaluate(programme: Programme, through: number, options: SettlementOptions): Promise<void> {
  const { store, signer, nowMs, log } = options;
  const state = (await store.programmes()).find(
    ({ id, version }) => id === programme.id && version === programme.version,
  );
  if (state === undefined) throw new Error(`The programme ${programme.id} was not adopted.`);
  if (state.evaluated >= through) return;
  const drafts = await draftsOf(programme, state.evaluated, through, store);
  const grants: SignedGrant[] = [];
  for (const draft of drafts) grants.push(...(await signGrants(draft, signer, nowMs())));
  // False: another worker evaluated it meanwhile; what was signed here is forgotten unseen.
  if (!(await store.evaluated(programme, state.evaluated, through, grants))) return;
  for (const grant of grants) {
    log.info('A grant was issued', {
      programme: grant.programme,
      licensee: grant.licensee,
      customer: grant.customer ?? '',
      amountMills: grant.amountMills,
    });
  }
}

async function draftsOf(
  programme: Programme,
  after: number,
  through: number,
  store: AuthorityStore,
): Promise<readonly Draft[]> {
  const drafts: Draft[] = [];
  const done = new Set<string>();
  for (const touched of await store.touched(after, through)) {
    const beneficiary = beneficiaryOf(programme, touched);
    const period = periodOf(programme, touched.mailingDate);
    const group = `${beneficiary.licensee} ${beneficiary.customer ?? ''} ${period}`;
    if (done.has(group)) continue;
    done.add(group);

    const { from, to } = periodDays(programme, touched.mailingDate);
    const customer = programme.beneficiary === 'customer' ? beneficiary.customer : undefined;
    const totals = await store.totalsOf(beneficiary.licensee, customer, from, to);
    const counted = totals.filter((total) => total.standing === 'paid' && selects(programme, total));
    const reckoning = reckon(programme, counted)[0];
    if (reckoning === undefined) continue;
    const identity = { ...beneficiary, programme: programme.id, version: programme.version, period };
    const last = await store.lastGrant(identity);
    if (!isDue(reckoning, last)) continue;
    const evidence = await store.evidence(
      counted.map(({ id }) => id),
      last?.through ?? 0,
      through,
    );
    drafts.push({ programme, reckoning, last, evidence, remarks: remarksOn(programme, totals) });
  }
  return drafts;
}

/** What the programme would select and yet does not count, by standing. */
function remarksOn(programme: Programme, totals: readonly StoredTotal[]): readonly string[] {
  const left = new Map<string, number>();
  for (const total of totals) {
    if (total.standing === 'paid' || !selects(programme, total)) continue;
    left.set(total.standing, (left.get(total.standing) ?? 0) + total.pieces);
  }
  return [...left].sort().map(([standing, pieces]) => `Not counted: ${pieces} pieces (${standing}).`);
}

/** One settlement after the other, each begun by whoever has news; failures are logged and tried again with the next. */
export class Settler {
  readonly #options: SettlementOptions;
  readonly #retryMs: number;
  #running: Promise<void> | null = null;
  #wanted = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: SettlementOptions, retryMs = 2_000) {
    this.#options = options;
    this.#retryMs = retryMs;
  }

  /** Settles soon, or once more after the settlement that runs. Never rejects. */
  wake(): void {
    this.#wanted = true;
    if (this.#closed || this.#running !== null) return;
    this.#running = this.#run().finally(() => {
      this.#running = null;
      // Woken between the loop's last look and here.
      if (this.#wanted) this.wake();
    });
  }

  /** Waits for the settlement that runs; none begins after it. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#wanted && !this.#closed) {
      this.#wanted = false;
      try {
        await settle(this.#options);
      } catch (error) {
        this.#options.log.error('Settlement failed; it is tried again', error);
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => {
          this.wake();
        }, this.#retryMs).unref();
        return;
      }
    }
  }
}
