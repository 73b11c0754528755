/**
 * Reads the ledger from its first entry, beside the log that it follows, and says in words what is wrong with it.
 *
 * Guarantees, where it says nothing: entries are numbered without gap and sum to zero, balances are the sums of their lines;
 * every record up to the ledger's cursor has its one postage entry, of its own amount, from its device to its own customer, and
 * no later one has any; a credit is drawn by its own customer's postage only, no more of it than was granted, no record draws
 * more than its postage; spoiled postage was paid back once, of its own amount, after its window, of no incomplete batch and of no
 * record of a suspended device; deposits and payouts move nothing but their deposit; every booked grant is authentic and booked as its entitlement asks for; every funds grant is authentic,
 * of the amount that was decided, with its entry. Pages are read one by one; kept in memory are credits and entitlements.
 * Cannot see that a deposit was paid in with another amount than its operator meant: nothing signed says so.
 */
import type { Examination } from '@countermark/node-platform/examination';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestText, sameBytes } from '@countermark/protocol/digest';
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { FinalStatement } from '@countermark/protocol/messages/final-statement';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { describeFinding } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import { type KeySource, type Trust, verifyMessage } from '@countermark/verify/verified';
import { followerCursor } from './follower.ts';
import { ACCOUNT, type Ledger, type Line } from './ledger.ts';
import { LEDGER_FOLLOWER } from './ledger-follower.ts';
import type { CheckedRecord } from './log-check.ts';
import { pages } from './pages.ts';
import { refundRef } from './refund.ts';
import { spoiledLines, spoiledMills, spoiledRef } from './spoiled-postage.ts';
import type { ServerTables } from './tables.ts';

/** Refs in one query. */
const REFS = 200;
/** Ranges of refs in one query. */
const RANGES = 50;

type Drawn = { readonly licensee: string; readonly customer: string; mills: bigint };
/** An entry as it was found: its lines by account. */
type Found = ReadonlyMap<string, bigint>;

export class LedgerCheck {
  readonly #database: SqlDatabase<ServerTables>;
  readonly #trust: Trust;
  readonly #examination: Examination;
  readonly #cursor: bigint;
  /** What was drawn of each credit, by the digest of its grant in hex. */
  readonly #drawn = new Map<string, Drawn>();
  #postageEntries = 0n;
  #drawEntries = 0n;
  #fundsEntries = 0n;
  #spoiledEntries = 0n;
  #grantEntries = 0n;

  private constructor(
    database: SqlDatabase<ServerTables>,
    roleKeys: KeySource,
    examination: Examination,
    cursor: bigint,
  ) {
    this.#database = database;
    this.#trust = { port: nodeVerification, keys: roleKeys };
    this.#examination = examination;
    this.#cursor = cursor;
  }

  static async of(
    database: SqlDatabase<ServerTables>,
    roleKeys: KeySource,
    examination: Examination,
  ): Promise<LedgerCheck> {
    return new LedgerCheck(database, roleKeys, examination, await followerCursor(database, LEDGER_FOLLOWER));
  }

  /** A page of the log's good records: their postage, and what they drew. */
  async page(records: readonly CheckedRecord[]): Promise<void> {
    for (const { entry, record } of records) {
      if (record.type === 'final-statement' && entry.cursor <= this.#cursor) {
        await this.#ended(record.verified.message);
      }
    }
    const franked = records.flatMap(({ entry, record }) => {
      if (record.type !== 'batch-statistics') return [];
      const { licensee, declaration, observed } = record.verified.message;
      const postageMills = observed.closed.ascendingMills - observed.opened.ascendingMills;
      const refundableMills = entry.suspended ? 0n : spoiledMills(record.verified.message);
      const digest = digestText(entry.digest);
      return [{ entry, licensee, customer: declaration.customer, postageMills, refundableMills, digest }];
    });
    const found = await this.#entries(franked.map(({ digest }) => `postage:${digest}`));
    await this.#spoiled(franked);
    for (const { entry, licensee, customer, postageMills, digest } of franked) {
      const name = `the postage of record ${entry.sequence} of ${entry.device}`;
      const booked = found.get(`postage:${digest}`);
      if (booked !== undefined) this.#postageEntries += 1n;
      if (entry.cursor > this.#cursor) {
        if (booked !== undefined)
          this.#problem(`${name} is booked, though the ledger's cursor ${this.#cursor} is before it`);
        continue;
      }
      const lines =
        postageMills === 0n
          ? []
          : [
              { account: ACCOUNT.device(entry.device), amountMills: -postageMills },
              { account: ACCOUNT.of('postage', licensee, customer), amountMills: postageMills },
            ];
      this.#compare(name, booked, lines);
    }
    for (let first = 0; first < franked.length; first += RANGES) {
      await this.#draws(franked.slice(first, first + RANGES));
    }
  }

  /** A device that has ended: what is noted of its statement, and the refund that rests on it. */
  async #ended({ device, licensee, sequence, returnedMills }: FinalStatement): Promise<void> {
    const { closure, death } = await this.#database.read(async (tables) => ({
      closure: await tables.selectFrom('closure').selectAll().where('device', '=', device).executeTakeFirst(),
      death: await tables.selectFrom('death').select('settled').where('device', '=', device).executeTakeFirst(),
    }));
    const name = `the final statement ${sequence} of ${device}`;
    if (closure?.sequence !== BigInt(sequence) || closure.returned_mills !== returnedMills) {
      this.#problem(
        `${name} gives ${returnedMills} mills back; the registry has ${closure?.returned_mills ?? 'nothing'} of it`,
      );
      return;
    }
    if (death?.settled === 'refunded') return;
    const refund = (await this.#entries([refundRef(device)])).get(refundRef(device));
    this.#compare(
      `the refund by ${name}`,
      refund,
      closure.settled === 'refunded'
        ? [
            { account: ACCOUNT.device(device), amountMills: 0n - returnedMills },
            { account: ACCOUNT.deposit(licensee), amountMills: returnedMills },
          ]
        : [],
    );
  }

  /** Everything that does not stand beside a record, after the last page; `whole`: every record of the log was seen. */
  async rest(ledger: Ledger, whole: boolean): Promise<void> {
    for (const problem of await ledger.problems()) this.#problem(problem);
    await this.#numbers();
    await this.#grants();
    if (whole) await this.#credits();
    await this.#funds();
    await this.#cash();
    if (whole) await this.#counts();
  }

  /** What was paid back of spoiled postage, held against the records and against what waits. */
  async #spoiled(
    franked: readonly {
      readonly entry: CheckedRecord['entry'];
      readonly licensee: LicenseeId;
      readonly customer: CustomerId | undefined;
      readonly refundableMills: bigint;
    }[],
  ): Promise<void> {
    if (franked.length === 0) return;
    const found = await this.#entries(franked.map(({ entry }) => spoiledRef(entry.digest)));
    const rows: ServerTables['spoilage'][] = [];
    for (let first = 0; first < franked.length; first += REFS) {
      const digests = franked.slice(first, first + REFS).map(({ entry }) => entry.digest);
      rows.push(
        ...(await this.#database.read((tables) =>
          tables.selectFrom('spoilage').selectAll().where('digest', 'in', digests).execute(),
        )),
      );
    }
    const noted = new Map(rows.map((row) => [digestText(row.digest), row]));
    for (const { entry, licensee, customer, refundableMills } of franked) {
      const name = `the spoiled postage of record ${entry.sequence} of ${entry.device}`;
      const booked = found.get(spoiledRef(entry.digest));
      const row = noted.get(digestText(entry.digest));
      if (booked !== undefined) this.#spoiledEntries += 1n;
      if (row !== undefined && (row.amount_mills !== refundableMills || row.licensee !== licensee)) {
        this.#problem(
          `${name} is noted as ${row.amount_mills} mills of ${row.licensee}; ${refundableMills} of ${licensee} can come back`,
        );
      }
      const refunded = row?.settled === 'refunded';
      if (booked === undefined && !refunded) continue;
      this.#compare(name, booked, spoiledLines(licensee, customer, refundableMills));
      if (!refunded) this.#problem(`${name} was paid back, and is not noted as paid back`);
      else if ((row.settled_at_ms ?? 0n) < row.refund_after_ms) {
        this.#problem(`${name} was paid back before its scan window had passed`);
      }
    }
  }

  /** Deposits and payouts move their licensee's deposit, against the world, and nothing else. */
  async #cash(): Promise<void> {
    for await (const entry of pages(
      this.#database,
      (tables, after: bigint) =>
        tables
          .selectFrom('entry')
          .select(['number', 'ref', 'kind'])
          .where('kind', 'in', ['deposit', 'payout'])
          .where('number', '>', after)
          .orderBy('number'),
      ({ number }) => number,
      0n,
    )) {
      const deposit = ACCOUNT.deposit((entry.ref.split(':')[1] ?? '') as LicenseeId);
      const lines = (await this.#entries([entry.ref])).get(entry.ref) ?? new Map<string, bigint>();
      const strange = [...lines.keys()].filter((account) => account !== deposit && account !== ACCOUNT.world);
      const moved = lines.get(deposit) ?? 0n;
      if (strange.length > 0 || (entry.kind === 'deposit' ? moved < 0n : moved > 0n)) {
        this.#problem(`the ledger entry ${entry.ref} is no ${entry.kind}: it moves ${[...lines.keys()].join(', ')}`);
      }
    }
  }

  async #draws(
    franked: readonly {
      readonly entry: CheckedRecord['entry'];
      readonly licensee: LicenseeId;
      readonly customer: CustomerId | undefined;
      readonly postageMills: bigint;
      readonly digest: string;
    }[],
  ): Promise<void> {
    const rows = await this.#database.read((tables) =>
      tables
        .selectFrom('entry')
        .innerJoin('entry_line', 'entry_line.entry', 'entry.number')
        .select(['entry.ref', 'entry_line.account', 'entry_line.amount_mills'])
        .where((eb) =>
          eb.or(
            franked.map(({ digest }) =>
              eb.and([eb('entry.ref', '>', `draw:${digest}:`), eb('entry.ref', '<', `draw:${digest};`)]),
            ),
          ),
        )
        .execute(),
    );
    const byRecord = new Map<string, Map<string, Line[]>>();
    for (const { ref, account, amount_mills: amountMills } of rows) {
      const record = ref.split(':')[1] ?? '';
      const draws = byRecord.get(record) ?? new Map<string, Line[]>();
      draws.set(ref, [...(draws.get(ref) ?? []), { account, amountMills }]);
      byRecord.set(record, draws);
    }
    for (const { entry, licensee, customer, postageMills, digest } of franked) {
      let sum = 0n;
      for (const [ref, lines] of byRecord.get(digest) ?? []) {
        this.#drawEntries += 1n;
        const name = `the credit drawn by record ${entry.sequence} of ${entry.device}`;
        const amountMills = lines.find(({ account }) => account === ACCOUNT.drawn(licensee))?.amountMills ?? 0n;
        const own = ACCOUNT.of('credit', licensee, customer);
        if (
          amountMills <= 0n ||
          !lines.every(({ account }) => account === own || account === ACCOUNT.drawn(licensee))
        ) {
          const others = lines.map(({ account }) => account).join(', ');
          this.#problem(
            `${name} is not its own customer's: its entry moves ${others}; its customer's credit is ${own}`,
          );
        }
        sum += amountMills;
        const grant = ref.split(':')[2] ?? '';
        const drawn = this.#drawn.get(grant) ?? { licensee, customer: customer ?? '', mills: 0n };
        if (drawn.licensee !== licensee || drawn.customer !== (customer ?? '')) {
          this.#problem(`${name} is of a credit that others have drawn, too`);
        }
        drawn.mills += amountMills;
        this.#drawn.set(grant, drawn);
      }
      if (sum > postageMills) {
        this.#problem(
          `record ${entry.sequence} of ${entry.device} drew ${sum} mills of credit for ${postageMills} of postage`,
        );
      }
    }
  }

  /** Entries are numbered from 1 without gap. */
  async #numbers(): Promise<void> {
    const gaps = await this.#database.read((tables) =>
      tables
        .selectFrom('entry as e')
        .select('e.number')
        .where('e.number', '>', 1n)
        .where((eb) =>
          eb.not(
            eb.exists(
              eb
                .selectFrom('entry as f')
                .select('f.number')
                .whereRef('f.number', '=', eb('e.number', '-', 1n)),
            ),
          ),
        )
        .orderBy('e.number')
        .limit(10)
        .execute(),
    );
    for (const { number } of gaps) this.#problem(`the ledger entry ${number - 1n} is missing`);
  }

  async #grants(): Promise<void> {
    const entitled = new Map<string, bigint>();
    let page: ServerTables['booked_grant'][] = [];
    const flush = async (): Promise<void> => {
      const found = await this.#entries(page.map(({ digest }) => `grant:${digestText(digest)}`));
      for (const row of page) this.#grant(row, entitled, found.get(`grant:${digestText(row.digest)}`));
      page = [];
    };
    for await (const row of pages(
      this.#database,
      (tables, after: bigint) =>
        tables.selectFrom('booked_grant').selectAll().where('cursor', '>', after).orderBy('cursor'),
      (row) => row.cursor,
      0n,
    )) {
      page.push(row);
      if (page.length === REFS) await flush();
    }
    await flush();
    const stored = await this.#database.read((tables) => tables.selectFrom('entitled').selectAll().execute());
    for (const { licensee, customer, programme, version, period, entitlement_mills: mills } of stored) {
      const key = [licensee, customer, programme, version, period].join(' ');
      if (entitled.get(key) !== mills) {
        this.#problem(
          `the entitlement of ${customer === '' ? licensee : `${customer} of ${licensee}`} under ${programme}, ${period}, is stored as ${mills} mills; its grants say ${entitled.get(key) ?? 0n}`,
        );
      }
      entitled.delete(key);
    }
    for (const key of entitled.keys()) this.#problem(`the entitlement ${key} is booked and not stored`);
  }

  #grant(row: ServerTables['booked_grant'], entitled: Map<string, bigint>, booked: Found | undefined): void {
    const name = `grant ${row.cursor}`;
    const envelope = parseEnvelope(row.grant_bytes);
    const credit = envelope.ok && envelope.value.type === CREDIT_GRANT.type;
    const verified = verifyMessage(credit ? CREDIT_GRANT : DISCOUNT_GRANT, row.grant_bytes, this.#trust);
    if (!verified.ok) {
      this.#problem(`${name}: ${describeFinding(verified.rejection)}`);
      return;
    }
    const { message, digest } = verified.value;
    if (!sameBytes(digest, row.digest)) this.#problem(`${name} is stored under another digest: it is another grant`);
    const { licensee, customer, programme, programmeVersion, period, entitlementMills } = message;
    if (row.licensee !== licensee || row.customer !== (customer ?? '') || (row.kind === 'credit') !== credit) {
      this.#problem(`${name} is stored as another customer's or kind than it says`);
    }
    // As `grant-intake.ts` books it: what the entitlement lacks.
    const key = [licensee, customer ?? '', programme, programmeVersion, period].join(' ');
    const due: bigint = entitlementMills - (entitled.get(key) ?? 0n);
    const dueMills = due <= 0n ? 0n : due;
    if (due > 0n) entitled.set(key, entitlementMills);
    if (booked !== undefined) this.#grantEntries += 1n;
    this.#compare(
      name,
      booked,
      dueMills === 0n
        ? []
        : [
            { account: credit ? ACCOUNT.authorityCredits : ACCOUNT.authorityDiscounts, amountMills: -dueMills },
            { account: ACCOUNT.of(credit ? 'credit' : 'discount', licensee, customer), amountMills: dueMills },
          ],
    );
  }

  /** What is left of a credit is what was granted less what was drawn. */
  async #credits(): Promise<void> {
    const known = new Set<string>();
    for await (const row of pages(
      this.#database,
      (tables, after: bigint) => tables.selectFrom('credit').selectAll().where('place', '>', after).orderBy('place'),
      (row) => row.place,
      0n,
    )) {
      const grant = digestText(row.grant_digest);
      known.add(grant);
      const account = ACCOUNT.of(
        'credit',
        row.licensee as LicenseeId,
        row.customer === '' ? undefined : (row.customer as CustomerId),
      );
      const booked = (await this.#entries([`grant:${grant}`])).get(`grant:${grant}`)?.get(account) ?? 0n;
      const drawn = this.#drawn.get(grant);
      if (drawn !== undefined && (drawn.licensee !== row.licensee || drawn.customer !== row.customer)) {
        this.#problem(`the credit of grant ${row.place} is ${row.customer}'s and was drawn by ${drawn.customer}`);
      }
      const drawnMills = drawn?.mills ?? 0n;
      if (row.remaining_mills !== booked - drawnMills || row.remaining_mills < 0n) {
        this.#problem(
          `of the credit of grant ${row.place} ${row.remaining_mills} mills are left; ${booked} were booked and ${drawnMills} drawn`,
        );
      }
    }
    for (const grant of this.#drawn.keys()) {
      if (!known.has(grant)) this.#problem(`a credit was drawn that was never booked: grant ${grant}`);
    }
  }

  async #funds(): Promise<void> {
    const first = { device: '', number: 0n };
    for await (const row of pages(
      this.#database,
      (tables, after: { readonly device: string; readonly number: bigint }) =>
        tables
          .selectFrom('funds')
          .selectAll()
          .where((eb) =>
            eb.or([
              eb('device', '>', after.device),
              eb.and([eb('device', '=', after.device), eb('number', '>', after.number)]),
            ]),
          )
          .orderBy('device')
          .orderBy('number'),
      ({ device, number }) => ({ device, number }),
      first,
    )) {
      await this.#fundsRow(row);
    }
  }

  async #fundsRow(row: ServerTables['funds']): Promise<void> {
    const { device, number, deposit_mills: deposit, amount_mills: amount } = row;
    const name = `the funds grant ${number} of ${device}`;
    const licensee = row.licensee as LicenseeId;
    const drawnMills = amount - deposit;
    if (row.funds_grant !== null) {
      const verified = verifyMessage(FUNDS_GRANT, row.funds_grant, this.#trust);
      if (!verified.ok) {
        this.#problem(`${name}: ${describeFinding(verified.rejection)}`);
        return;
      }
      const said = verified.value.message;
      if (said.device !== device || BigInt(said.number) !== number) {
        this.#problem(`${name} is the grant ${said.number} of ${said.device}`);
      }
      if (said.amountMills !== amount) {
        this.#problem(`${name} is of ${said.amountMills} mills; ${amount} are booked`);
      }
      await this.#fundsDraws(name, row, said.draws);
    }
    const ref = `funds:${device}:${number}`;
    const found = await this.#entries([ref, `funds-correction:${device}:${number}`]);
    if (found.has(ref)) this.#fundsEntries += 1n;
    const sums = new Map<string, bigint>();
    for (const lines of found.values())
      for (const [account, mills] of lines) sums.set(account, (sums.get(account) ?? 0n) + mills);
    this.#compare(name, amount === 0n && found.size === 0 ? undefined : sums, [
      { account: ACCOUNT.deposit(licensee), amountMills: -deposit },
      { account: ACCOUNT.drawn(licensee), amountMills: -drawnMills },
      { account: ACCOUNT.device(device as DeviceId), amountMills: amount },
    ]);
  }

  /** What the grant pays to each customer is what it took of that customer's draws, and what it still owes them. */
  async #fundsDraws(
    name: string,
    { licensee, device, number }: ServerTables['funds'],
    draws: readonly { readonly customer?: CustomerId; readonly amountMills: bigint }[],
  ): Promise<void> {
    const taken = await this.#database.read((tables) =>
      tables
        .selectFrom('draw')
        .select((eb) => ['customer', eb.fn.sum<bigint>('amount_mills').as('sum')])
        .where('licensee', '=', licensee)
        .where('device', '=', device)
        .where('number', '=', number)
        .groupBy('customer')
        .execute(),
    );
    const owed = await this.#database.read((tables) =>
      tables
        .selectFrom('draw')
        .select(['customer', 'amount_mills'])
        .where('ref', '>=', `owed:${device}:${number}:`)
        .where('ref', '<', `owed:${device}:${number};`)
        .execute(),
    );
    const sums = new Map(taken.map((row) => [row.customer, row.sum]));
    for (const row of owed) sums.set(row.customer, (sums.get(row.customer) ?? 0n) - row.amount_mills);
    for (const { customer = '', amountMills } of draws) {
      const sum = sums.get(customer) ?? 0n;
      if (sum !== amountMills) {
        this.#problem(
          `${name} pays ${customer} ${amountMills} mills of drawn credit; ${sum} of that customer's draws were taken`,
        );
      }
      sums.delete(customer);
    }
    for (const [customer, sum] of sums) {
      if (sum !== 0n) this.#problem(`${name} took ${sum} mills of the draws of ${customer}, whom it does not name`);
    }
  }

  /** There is no entry of these kinds beyond those that have their cause. */
  async #counts(): Promise<void> {
    const rows = await this.#database.read((tables) =>
      tables
        .selectFrom('entry')
        .select((eb) => ['kind', eb.fn.countAll<bigint>().as('count')])
        .groupBy('kind')
        .execute(),
    );
    const counted = new Map(rows.map(({ kind, count }) => [kind, count]));
    const expected: readonly (readonly [string, bigint])[] = [
      ['postage', this.#postageEntries],
      ['draw', this.#drawEntries],
      ['funds', this.#fundsEntries],
      ['spoiled', this.#spoiledEntries],
    ];
    for (const [kind, count] of expected) {
      const found = counted.get(kind) ?? 0n;
      if (found > count) this.#problem(`the ledger has ${found} entries of ${kind}; ${count} have a cause`);
    }
    const grants = (counted.get('discount') ?? 0n) + (counted.get('credit') ?? 0n);
    if (grants > this.#grantEntries) {
      this.#problem(`the ledger has ${grants} entries of discounts and credits; ${this.#grantEntries} have a grant`);
    }
  }

  /** The entries of these refs, by ref. */
  async #entries(refs: readonly string[]): Promise<Map<string, Found>> {
    const found = new Map<string, Map<string, bigint>>();
    for (let first = 0; first < refs.length; first += REFS) {
      const rows = await this.#database.read((tables) =>
        tables
          .selectFrom('entry')
          .leftJoin('entry_line', 'entry_line.entry', 'entry.number')
          .select(['entry.ref', 'entry_line.account', 'entry_line.amount_mills'])
          .where('entry.ref', 'in', refs.slice(first, first + REFS))
          .execute(),
      );
      for (const { ref, account, amount_mills: mills } of rows) {
        const lines = found.get(ref) ?? new Map<string, bigint>();
        if (account !== null && mills !== null) lines.set(account, mills);
        found.set(ref, lines);
      }
    }
    return found;
  }

  #compare(name: string, booked: Found | undefined, expected: readonly Line[]): void {
    const lines = expected.filter(({ amountMills }) => amountMills !== 0n);
    if (booked === undefined) {
      if (lines.length > 0) this.#problem(`${name} is not booked in the ledger`);
      return;
    }
    const left = new Map([...booked].filter(([, mills]) => mills !== 0n));
    for (const { account, amountMills } of lines) {
      const found = left.get(account);
      if (found !== amountMills) {
        this.#problem(`${name} moves ${account} by ${found ?? 0n} mills in the ledger; ${amountMills} are right`);
      }
      left.delete(account);
    }
    for (const [account, mills] of left)
      this.#problem(`${name} moves ${account} by ${mills} mills, which is none of its accounts`);
  }

  #problem(words: string): void {
    this.#examination.problem(words);
  }
}
