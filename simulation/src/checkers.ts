/**
 * What must hold at every moment (design, section 3), looked at after every commit of every party, incrementally; and what must
 * hold when everything has come to rest.
 *
 * Guarantees that books are compared with what was seen from outside (`observation.ts`) and with each other, never with
 * themselves alone. The parties' own code is used to read bytes, not to judge them.
 */
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { DISCOUNT_GRANT, CREDIT_GRANT } from '@countermark/protocol/messages/grant';
import { parseEnvelope } from '@countermark/protocol/cose';
import { parsePayload } from '@countermark/protocol/message';
import { Credits } from './credits.ts';
import { Cursors } from './cursors.ts';
import type { LineSetting } from './parties.ts';
import { STORE } from './parties.ts';
import { type Observation, statisticsOf } from './observation.ts';
import type { World } from './world.ts';

type DeviceRow = {
  readonly ascending: bigint;
  readonly descending: bigint;
  readonly pieces: bigint;
  readonly received: bigint;
  readonly returned: bigint;
  readonly sequence: bigint;
  readonly last_grant: bigint;
};
type LogRow = {
  readonly device: string;
  readonly sequence: bigint;
  readonly cursor: bigint;
  readonly digest: Buffer;
  readonly record: Buffer;
  readonly suspended: bigint;
};
type Head = { readonly sequence: number; readonly digest: string; readonly statistics: BatchStatistics | null };

/** What the checkers of the server look at. */
const SERVER_TABLES = [
  'record',
  'head',
  'confirmation',
  'entry',
  'entry_line',
  'balance',
  'follower',
  'draw',
  'booked_grant',
];

const NO_DIGEST = '00'.repeat(32);

export class Checkers {
  readonly #world: World;
  readonly #seen: Observation;
  readonly #lines: readonly LineSetting[];
  readonly #credits: Credits;
  readonly #cursors: Cursors;
  #logCursor = 0n;
  #entry = 0n;
  #intake = 0n;
  #grants = 0n;
  readonly #heads = new Map<string, Head>();
  readonly #authorityHeads = new Map<string, number>();
  readonly #balances = new Map<string, bigint>();
  readonly #refs = new Set<string>();
  readonly #entitled = new Map<string, bigint>();
  readonly #registers = new Map<number, DeviceRow>();
  readonly #held = new Map<number, Set<string>>();
  readonly #stored = new Map<string, string>();
  /** The digest of the last record that each PSD sealed. */
  readonly #lastSealed = new Map<number, string>();

  constructor(world: World, seen: Observation, lines: readonly LineSetting[]) {
    this.#world = world;
    this.#seen = seen;
    this.#lines = lines;
    this.#credits = new Credits(world, seen);
    this.#cursors = new Cursors(world, seen);
    world.onCommitted((path, _process, written) => {
      const wrote = (...tables: string[]): boolean => tables.some((table) => written.has(table));
      if (path === STORE.server) {
        if (wrote(...SERVER_TABLES)) this.#server();
      } else if (path === STORE.authority) {
        if (wrote('record', 'issued_grant')) this.#authority();
      } else {
        const line = /^\/psd-(\d+)\/psd\.db$/.exec(path)?.[1];
        if (line !== undefined) this.#psd(Number(line), wrote('record'));
      }
    });
  }

  /** The server's database was replaced by an older copy: what is in it now was checked before. */
  serverPutBack(): void {
    this.#heads.clear();
    this.#logCursor = 0n;
    this.#entry = 0n;
    this.#balances.clear();
    this.#refs.clear();
    this.#stored.clear();
    this.#credits.putBack();
    this.#cursors.putBack();
    this.#server();
  }

  authorityPutBack(): void {
    this.#intake = 0n;
    this.#grants = 0n;
    this.#authorityHeads.clear();
    this.#entitled.clear();
    this.#authority();
  }

  psdPutBack(line: number): void {
    this.#registers.delete(line);
    this.#held.delete(line);
    this.#lastSealed.delete(line);
  }

  /** Invariants 2 and 4, and that registers only ever rise. */
  #psd(line: number, recordsToo: boolean): void {
    const { disks } = this.#world;
    const path = STORE.psd(line);
    const [now] = disks.rows<DeviceRow>(
      path,
      'SELECT ascending, descending, pieces, received, returned, sequence, last_grant FROM device',
    );
    if (now === undefined) return;
    const violated = (what: string): void => {
      this.#world.violated('registers', `psd-${line}: ${what}`);
    };
    if (now.ascending + now.descending !== now.received - now.returned) {
      violated(
        `ascending ${now.ascending} + descending ${now.descending} are not the funds ${now.received - now.returned}`,
      );
    }
    const before = this.#registers.get(line);
    if (before !== undefined) {
      if (now.ascending < before.ascending || now.pieces < before.pieces) violated('a register went back');
      if (now.received < before.received) violated('funds received went back');
      if (now.sequence > before.sequence + 1n) violated('the chain went on by more than one record in a commit');
      if (now.pieces === before.pieces && now.ascending !== before.ascending)
        violated('postage was debited for no piece');
      if (now.sequence > before.sequence) this.#sealed(line, now.sequence);
      if (now.received > before.received && now.last_grant <= before.last_grant) {
        violated(`funds came with grant ${now.last_grant}, which had been booked before`);
      }
      if (now.received > before.received) this.#funded(line, now.received);
    }
    this.#registers.set(line, now);
    if (!recordsToo) return;
    const held = new Set(
      disks
        .rows<{ readonly digest: Buffer }>(path, 'SELECT digest FROM record WHERE bytes IS NOT NULL')
        .map(({ digest }) => digest.toString('hex')),
    );
    for (const digest of this.#held.get(line) ?? []) {
      if (held.has(digest)) continue;
      const name = `psd-${line} deleted ${digest.slice(0, 12)}`;
      if (!this.#seen.confirmed.has(digest)) this.#world.violated('deleted without a confirmation', name);
      if (this.#seen.logged.has(digest) || this.#seen.confirmedByALie.has(digest)) continue;
      this.#world.violated('deleted before it was logged', name);
    }
    // A copy of a device is nobody's line.
    const { recordCapacity } = this.#lines.find((one) => one.line === line) ?? { recordCapacity: Infinity };
    if (held.size > recordCapacity + 1) violated(`${held.size} records are kept where ${recordCapacity} have room`);
    this.#held.set(line, held);
  }

  /** Invariant 10 as funds arrive: the ledger has paid them out, which it does before the cryptographic device signs. */
  #funded(line: number, receivedMills: bigint): void {
    const device = this.#seen.deviceOfLine.get(line);
    if (device === undefined || this.#seen.serverWasPutBack) return;
    const [granted] = this.#world.disks.rows<{ readonly sum: bigint | null }>(
      STORE.server,
      'SELECT sum(amount_mills) AS sum FROM funds WHERE device = ?',
      device,
    );
    if (receivedMills > (granted?.sum ?? 0n)) {
      this.#world.violated('funds', `psd-${line} received ${receivedMills}, the ledger paid ${granted?.sum ?? 0n}`);
    }
  }

  /** Invariant 5 where the chain is made: a record names the one before it. */
  #sealed(line: number, sequence: bigint): void {
    const [row] = this.#world.disks.rows<{ readonly digest: Buffer; readonly bytes: Buffer | null }>(
      STORE.psd(line),
      'SELECT digest, bytes FROM record WHERE sequence = ?',
      sequence,
    );
    const before = this.#lastSealed.get(line);
    if (row?.bytes == null) return;
    this.#lastSealed.set(line, row.digest.toString('hex'));
    const statistics = statisticsOf(row.bytes);
    if (before === undefined || statistics === null) return;
    if (Buffer.from(statistics.previous).toString('hex') !== before) {
      this.#world.violated(
        'chain in the device',
        `psd-${line} sealed ${sequence}, which names another record before it`,
      );
    }
  }

  /** Invariants 3 and 5 for what came into the log; the ledger's entries; confirmations. */
  #server(): void {
    const { disks } = this.#world;
    const log = disks.rows<LogRow>(
      STORE.server,
      'SELECT device, sequence, cursor, digest, record, suspended FROM record WHERE cursor > ? ORDER BY cursor',
      this.#logCursor,
    );
    for (const row of log) {
      this.#logCursor = row.cursor;
      this.#logged(row);
    }
    for (const device of new Set(log.map((row) => row.device))) this.#head(device);
    this.#confirmations();
    this.#credits.look();
    this.#ledger();
    this.#cursors.look();
  }

  #logged({ device, sequence, digest, record }: LogRow): void {
    const name = digest.toString('hex');
    const where = `${device} ${sequence}`;
    const violated = (what: string): void => {
      this.#world.violated('chain in the log', `${where}: ${what}`);
    };
    if (!this.#seen.sealed.has(name)) {
      this.#world.violated('a record that no device made', `${where} ${name.slice(0, 12)} is in the log`);
    }
    this.#seen.logged.add(name);
    const head = this.#heads.get(device) ?? { sequence: 0, digest: NO_DIGEST, statistics: null };
    const statistics = statisticsOf(record);
    if (Number(sequence) !== head.sequence + 1) violated(`it follows ${head.sequence}`);
    if (statistics !== null) {
      if (Buffer.from(statistics.previous).toString('hex') !== head.digest)
        violated('it names another record before it');
      this.#added(where, statistics);
      const before = head.statistics?.observed.closed;
      const { opened } = statistics.observed;
      if (
        before !== undefined &&
        (opened.ascendingMills !== before.ascendingMills || opened.pieces !== before.pieces)
      ) {
        violated('its batch was not opened with the registers that the one before was closed with');
      }
    }
    this.#heads.set(device, { sequence: Number(sequence), digest: name, statistics: statistics ?? head.statistics });
  }

  /** A record and its place as the last of its chain are one: whatever comes next is judged by it. */
  #head(device: string): void {
    const [head] = this.#world.disks.rows<{ readonly sequence: bigint }>(
      STORE.server,
      'SELECT sequence FROM head WHERE device = ?',
      device,
    );
    const last = this.#heads.get(device)?.sequence ?? 0;
    if (Number(head?.sequence ?? 0n) === last) return;
    this.#world.violated('chain in the log', `${device} ${last} is in the log, its head is ${head?.sequence ?? 0n}`);
  }

  /** Invariant 3 within a record, and against the pieces that were seen. */
  #added(where: string, { device, observed, declaration, closing }: BatchStatistics): void {
    const { opened, closed, cells, spoiledPieces, spoiledPostageMills, incomplete } = observed;
    const violated = (what: string): void => {
      this.#world.violated('totals of a record', `${where}: ${what}`);
    };
    const pieces = closed.pieces - opened.pieces;
    const postageMills = closed.ascendingMills - opened.ascendingMills;
    if (observed.pieces !== pieces) violated(`${observed.pieces} pieces, the counter moved by ${pieces}`);
    if (
      closed.ascendingMills + closed.descendingMills !==
      observed.funds.receivedMills - observed.funds.returnedMills
    ) {
      violated('registers and funds do not agree');
    }
    if (incomplete) return;
    const counted = cells.reduce((sum, cell) => sum + cell.pieces, spoiledPieces);
    const paidMills = cells.reduce<bigint>((sum, cell) => sum + cell.postageMills, spoiledPostageMills);
    if (counted !== pieces) violated(`cells and spoiled are ${counted} pieces of ${pieces}`);
    if (paidMills !== postageMills) violated(`cells and spoiled are ${paidMills} mills of ${postageMills}`);
    if (spoiledPieces !== closing.spoiled.length) violated(`${spoiledPieces} of ${closing.spoiled.length} spoiled`);
    if (this.#seen.branched.has(device)) return;
    const seen = this.#seen.pieces.get(device);
    let seenMills = 0n;
    for (let number = opened.pieces + 1; number <= closed.pieces; number += 1) {
      const piece = seen?.get(number);
      // A piece whose chunk was franked, and whose answer was lost for good, was never seen: it counts, and is no harm.
      if (piece === undefined) return;
      seenMills += piece.postageMills;
      if (piece.batch !== declaration.batch) violated(`piece ${number} was franked in ${piece.batch}`);
    }
    if (seenMills !== postageMills) violated(`its indicia say ${seenMills} mills, the registers ${postageMills}`);
  }

  #confirmations(): void {
    const rows = this.#world.disks.rows<{
      readonly device: string;
      readonly sequence: bigint;
      readonly confirmation: Buffer;
      readonly logged: bigint | null;
    }>(
      STORE.server,
      `SELECT c.device, c.sequence, c.confirmation, r.cursor AS logged FROM confirmation c
       LEFT JOIN record r ON r.device = c.device AND r.sequence = c.sequence WHERE c.rowid > ?`,
      BigInt(this.#stored.size === 0 ? 0 : this.#lastConfirmation),
    );
    for (const { device, sequence, confirmation, logged } of rows) {
      const name = `${device} ${sequence}`;
      if (logged === null) this.#world.violated('confirmed and not logged', name);
      const text = confirmation.toString('hex');
      const before = this.#stored.get(name);
      if (before !== undefined && before !== text) {
        this.#world.violated('one confirmation for a record', `the stored confirmation of ${name} was replaced`);
      }
      this.#stored.set(name, text);
    }
    const [last] = this.#world.disks.rows<{ readonly last: bigint | null }>(
      STORE.server,
      'SELECT max(rowid) AS last FROM confirmation',
    );
    this.#lastConfirmation = last?.last ?? 0n;
  }
  #lastConfirmation = 0n;

  /** Invariant 10 in the ledger: every entry sums to zero, one for each cause, and no account below what it may be. */
  #ledger(): void {
    const { disks } = this.#world;
    const rows = disks.rows<{
      readonly number: bigint;
      readonly ref: string;
      readonly account: string;
      readonly amount_mills: bigint;
    }>(
      STORE.server,
      `SELECT e.number, e.ref, l.account, l.amount_mills FROM entry e JOIN entry_line l ON l.entry = e.number
       WHERE e.number > ? ORDER BY e.number`,
      this.#entry,
    );
    if (rows.length === 0) return;
    const violated = (what: string): void => {
      this.#world.violated('ledger', what);
    };
    const sums = new Map<bigint, bigint>();
    const refs = new Map<bigint, string>();
    const touched = new Set<string>();
    for (const { number, ref, account, amount_mills: amountMills } of rows) {
      sums.set(number, (sums.get(number) ?? 0n) + amountMills);
      refs.set(number, ref);
      this.#balances.set(account, (this.#balances.get(account) ?? 0n) + amountMills);
      touched.add(account);
      this.#entry = number;
    }
    for (const [number, sum] of sums) if (sum !== 0n) violated(`the entry ${refs.get(number) ?? ''} sums to ${sum}`);
    for (const ref of refs.values()) {
      if (this.#refs.has(ref)) violated(`${ref} was booked twice`);
      this.#refs.add(ref);
    }
    for (const account of touched) {
      const balanceMills = this.#balances.get(account) ?? 0n;
      if (balanceMills < 0n && /^(deposit|credit|drawn):/.test(account) && !this.#seen.serverWasPutBack) {
        violated(`${account} stands at ${balanceMills}`);
      }
      const [kept] = disks.rows<{ readonly balance_mills: bigint }>(
        STORE.server,
        'SELECT balance_mills FROM balance WHERE account = ?',
        account,
      );
      if ((kept?.balance_mills ?? 0n) !== balanceMills) {
        violated(`${account} is kept as ${kept?.balance_mills ?? 0n}, its entries are ${balanceMills}`);
      }
    }
  }

  /** Invariant 7: each record once, in its chain; each revision what its entitlement says, to whom its evidence says. */
  #authority(): void {
    const { disks } = this.#world;
    const violated = (what: string): void => {
      this.#world.violated('authority', what);
    };
    for (const { cursor, device, sequence, digest } of disks.rows<{
      readonly cursor: bigint;
      readonly device: string;
      readonly sequence: bigint;
      readonly digest: Buffer;
    }>(
      STORE.authority,
      'SELECT cursor, device, sequence, digest FROM record WHERE cursor > ? ORDER BY cursor',
      this.#intake,
    )) {
      this.#intake = cursor;
      const head = this.#authorityHeads.get(device) ?? 0;
      if (Number(sequence) !== head + 1) violated(`${device} ${sequence} follows ${head}`);
      this.#authorityHeads.set(device, Number(sequence));
      const name = digest.toString('hex');
      this.#seen.taken.add(name);
      if (!this.#seen.logged.has(name) && !this.#seen.confirmedByALie.has(name))
        violated(`${device} ${sequence} was never in the log`);
    }
    for (const row of disks.rows<{
      readonly cursor: bigint;
      readonly programme: string;
      readonly version: bigint;
      readonly licensee: string;
      readonly customer: string;
      readonly period: string;
      readonly amount_mills: bigint;
      readonly entitlement_mills: bigint;
      readonly bytes: Buffer;
    }>(STORE.authority, 'SELECT * FROM issued_grant WHERE cursor > ? ORDER BY cursor', this.#grants)) {
      this.#grants = row.cursor;
      const name = `${row.programme} ${row.version} ${row.licensee} ${row.customer} ${row.period}`;
      const before = this.#entitled.get(name) ?? 0n;
      if (row.amount_mills !== row.entitlement_mills - before) {
        violated(
          `${name}: ${row.amount_mills} granted, entitled are ${row.entitlement_mills}, granted before ${before}`,
        );
      }
      this.#entitled.set(name, row.entitlement_mills);
      this.#evidence(name, row.licensee, row.customer, row.bytes);
    }
  }

  #evidence(name: string, licensee: string, customer: string, bytes: Buffer): void {
    const envelope = parseEnvelope(bytes);
    if (!envelope.ok) return;
    const grant = parsePayload(
      envelope.value.type === CREDIT_GRANT.type ? CREDIT_GRANT : DISCOUNT_GRANT,
      envelope.value,
    );
    if (!grant.ok) return;
    for (const digest of grant.value.evidence) {
      const record = this.#seen.sealed.get(Buffer.from(digest).toString('hex'));
      const declared = record?.statistics;
      if (declared?.licensee !== licensee || (declared.declaration.customer ?? '') !== customer) {
        this.#world.violated(
          'credit to another',
          `${name} rests on a record of ${declared?.declaration.customer ?? 'nobody'}`,
        );
      }
    }
  }

  /**
   * When all has come to rest: what PSDs, log, ledger and authority say of each device adds up. Returns what does not.
   */
  contradictions(): string[] {
    const { disks } = this.#world;
    const found: string[] = [];
    for (const { line } of this.#lines) {
      const device = this.#seen.deviceOfLine.get(line);
      if (device === undefined || this.#seen.branched.has(device) || this.#seen.dead.has(line)) continue;
      const [psd] = disks.rows<DeviceRow>(STORE.psd(line), 'SELECT * FROM device');
      if (psd === undefined) continue;
      const [log] = disks.rows<{
        readonly ascending_mills: bigint;
        readonly pieces: bigint;
        readonly sequence: bigint;
      }>(STORE.server, 'SELECT ascending_mills, pieces, sequence FROM head WHERE device = ?', device);
      const logged = log ?? { ascending_mills: 0n, pieces: 0n, sequence: 0n };
      const says = (what: string, one: bigint, other: bigint): void => {
        if (one !== other) found.push(`psd-${line}: ${what}: ${one} and ${other}`);
      };
      says('records in the PSD and in the log', psd.sequence, logged.sequence);
      says('pieces in the PSD and in the log', psd.pieces, logged.pieces);
      says('ascending register in the PSD and in the log', psd.ascending, logged.ascending_mills);
      const [granted] = disks.rows<{ readonly sum: bigint | null }>(
        STORE.server,
        'SELECT sum(amount_mills) AS sum FROM funds WHERE device = ? AND funds_grant IS NOT NULL',
        device,
      );
      says('funds received in the PSD and granted in the ledger', psd.received, granted?.sum ?? 0n);
      says("the PSD's funds and its account", psd.descending, this.#balances.get(`device:${device}`) ?? 0n);
      const [taken] = disks.rows<{ readonly head: bigint; readonly pieces: bigint | null }>(
        STORE.authority,
        `SELECT (SELECT max(sequence) FROM record WHERE device = ?) AS head,
                (SELECT sum(pieces) FROM total WHERE device = ?) AS pieces`,
        device,
        device,
      );
      says('records in the log and at the authority', logged.sequence, taken?.head ?? 0n);
      says('pieces in the log and in the totals of the authority', logged.pieces, taken?.pieces ?? 0n);
      const [held] = disks.rows<{ readonly count: bigint }>(
        STORE.psd(line),
        'SELECT count(*) AS count FROM record WHERE bytes IS NOT NULL',
      );
      says('records that the PSD still holds, and none', held?.count ?? 0n, 0n);
    }
    return [...found, ...this.#money()];
  }

  /** Grants of the authority and the ledger: booked once each, drawn once each, by their own customers. */
  #money(): string[] {
    const { disks } = this.#world;
    const found: string[] = [];
    const sum = (path: string, query: string): bigint =>
      disks.rows<{ readonly sum: bigint | null }>(path, query)[0]?.sum ?? 0n;
    const issued = sum(STORE.authority, 'SELECT sum(amount_mills) AS sum FROM issued_grant');
    const booked = -(this.#balances.get('authority:discounts') ?? 0n) - (this.#balances.get('authority:credits') ?? 0n);
    // What was granted before a device forked stays granted; an authority that was put back has the fork, and not those grants.
    const [regranted] = disks.rows(
      STORE.authority,
      "SELECT 1 FROM position, device WHERE name LIKE 'grants-lost-after:%' AND suspended <> ''",
    );
    if (issued > booked || (issued < booked && regranted === undefined))
      found.push(`grants: ${issued} were issued, ${booked} are booked`);
    const total = [...this.#balances.values()].reduce((all, one) => all + one, 0n);
    if (total !== 0n) found.push(`the ledger's accounts add up to ${total}`);
    for (const row of disks.rows<{ readonly customer: string; readonly drawn: bigint; readonly credited: bigint }>(
      STORE.server,
      `SELECT d.customer, sum(d.amount_mills) AS drawn,
              coalesce((SELECT sum(l.amount_mills) FROM entry e JOIN entry_line l ON l.entry = e.number
                        WHERE e.kind = 'credit' AND l.account = 'credit:' || d.licensee || iif(d.customer = '', '', ':' || d.customer)), 0) AS credited
       FROM draw d GROUP BY d.licensee, d.customer`,
    )) {
      if (row.drawn > row.credited)
        found.push(`${row.customer} drew ${row.drawn} of ${row.credited} that it was credited`);
    }
    return found;
  }
}
