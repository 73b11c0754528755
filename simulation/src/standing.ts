/**
 * What must hold of devices that somebody copied, put back, or ended (invariants 5, 6 and 7): looked at after every commit of server,
 * authority and PSDs, and when all has come to rest.
 *
 * Guarantees: what a fork, a withdrawal and a rotation forbid is looked for where it would be booked, in the rows of that very commit,
 * against what earlier commits said; the cost of a copy is what its own registers moved by. Does not ask how a party came to what it
 * booked. Honest lines are `checkers.ts`.
 */
import { readUnverified } from '@countermark/host/unverified-message';
import { parseEnvelope } from '@countermark/protocol/cose';
import { ACCEPTANCE, CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import type { Answer } from '@countermark/protocol/interfaces/answer';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { parsePayload } from '@countermark/protocol/message';
import { SIGNED_TIME, SUSPENSION } from '@countermark/protocol/messages/policy';
import type { CborValue } from '@countermark/protocol/cbor';
import type { Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import type { Crossing } from './network.ts';
import { ACCEPTANCE_SOCKET, CD_SOCKET, DAY_MS, SCAN_WINDOW_DAYS, SERVER_URL, STORE } from './parties.ts';
import { digestOfRecord, type Observation, statisticsOf } from './observation.ts';
import type { World } from './world.ts';

/** The server keeps so many forks of a device. */
const FORKS_KEPT = 32;

type Marked = {
  readonly cursor: bigint;
  readonly device: string;
  readonly sequence: bigint;
  readonly suspended: bigint;
};

function marked({ suspended }: Marked): string {
  return suspended === 1n ? 'marked' : 'in good standing';
}

type Registers = { readonly ascending: bigint; readonly descending: bigint; readonly received: bigint };
/** What a copy started with, and what its device may frank and not report. */
type Copy = Registers & { readonly roomMills: bigint; costMills: bigint };

export class Standing {
  readonly #world: World;
  readonly #seen: Observation;
  /** Suspended at the server, as of the commit before, and after which record. */
  #suspended = new Map<string, bigint>();
  #suspendedAtAuthority = new Map<string, bigint>();
  #evidence = 0n;
  #logged = 0n;
  #funds = 0n;
  #entries = 0n;
  #refunds = 0n;
  /** The latest time that the cryptographic device has signed for a device. */
  readonly #signedMs = new Map<string, number>();
  /** The last one, which may be earlier: its clock may have been set back. */
  readonly #lastSignedMs = new Map<string, number>();
  /** When the scan window of a dead device began, by signed time; by device and confirmation. */
  readonly #windowFromMs = new Map<string, number>();
  #taken = 0n;
  #grants = 0n;
  /** Copies that report nothing, by line. */
  readonly #secret = new Map<number, Copy>();
  /** Lines that are copies of another's device. */
  readonly #copies = new Set<number>();
  /** The highest limit on what is not confirmed; set by the world's policy. */
  unconfirmedMostMills = 1_000_000_000n;

  constructor(world: World, seen: Observation) {
    this.#world = world;
    this.#seen = seen;
    world.onCommitted((path) => {
      if (path === STORE.server) this.#server();
      else if (path === STORE.authority) this.#authority();
      else if (this.#secret.size > 0) {
        const line = Number(/^\/psd-(\d+)\//.exec(path)?.[1]);
        const copy = this.#secret.get(line);
        if (copy !== undefined) this.#spent(line, copy);
      }
    });
  }

  serverPutBack(): void {
    this.#suspended = new Map();
    this.#evidence = 0n;
    this.#logged = 0n;
    this.#funds = 0n;
    this.#entries = 0n;
    this.#refunds = 0n;
    // What is there was looked at when it came.
    this.#server(false);
  }

  authorityPutBack(): void {
    this.#suspendedAtAuthority = new Map();
    this.#taken = 0n;
    this.#grants = 0n;
    this.#authority(false);
  }

  /** A line is a copy of another's device. `secret`: it reports nothing. */
  copied(line: number, secret: boolean): void {
    this.#copies.add(line);
    if (!secret) return;
    const registers = this.#registersOf(line);
    if (registers === undefined) return;
    // Confirmations of what both have in common reach the copy as well: only the whole limit bounds it.
    this.#secret.set(line, { ...registers, roomMills: this.unconfirmedMostMills, costMills: 0n });
  }

  /** Two branches that reach the server: what it answers and what it keeps. */
  crossed({ address, operation, parameters, answer }: Crossing): void {
    if (address === CD_SOCKET && operation === CRYPTOGRAPHIC_DEVICE.signTime.name) this.#signed(answer);
    if (this.#seen.branched.size === 0) return;
    if (address === SERVER_URL && operation === 'submit') {
      const said = answer as Result<readonly Answer[]>;
      const { records } = parameters as { readonly records: readonly Uint8Array[] };
      if (said.ok) for (const [i, one] of said.value.entries()) this.#answered(records[i], one);
    }
    if (address === ACCEPTANCE_SOCKET && operation === 'accept') {
      const said = answer as { readonly result?: Result<CborValue> };
      if (said.result?.ok !== true) return;
      const asked = parseValue(ACCEPTANCE.accept.request, parameters as CborValue);
      const answered = parseValue(ACCEPTANCE.accept.answer, said.result.value);
      if (!asked.ok || !answered.ok) return;
      for (const [i, one] of answered.value.answers.entries()) this.#answered(asked.value.items[i]?.record, one);
    }
  }

  #signed(answer: unknown): void {
    const said = (answer as { readonly result?: Result<CborValue> }).result;
    const parsed = said?.ok === true ? parseValue(CRYPTOGRAPHIC_DEVICE.signTime.answer, said.value) : null;
    const envelope = parsed?.ok === true ? parseEnvelope(parsed.value.time) : null;
    const time = envelope?.ok === true ? parsePayload(SIGNED_TIME, envelope.value) : null;
    if (time?.ok !== true) return;
    const { device, timeMs } = time.value;
    this.#lastSignedMs.set(device, timeMs);
    this.#signedMs.set(device, Math.max(timeMs, this.#signedMs.get(device) ?? 0));
  }

  #answered(record: Uint8Array | undefined, answer: Answer): void {
    const name = record === undefined ? null : digestOfRecord(record);
    const sealed = name === null ? undefined : this.#seen.sealed.get(name);
    if (name === null || sealed === undefined || this.#seen.confirmedByALie.has(name)) return;
    const { device, sequence } = sealed;
    const violated = (what: string): void => {
      this.#world.violated('forks', `${device} ${sequence}: ${what}`);
    };
    const [logged] = this.#world.disks.rows<{ readonly digest: Buffer }>(
      STORE.server,
      'SELECT digest FROM record WHERE device = ? AND sequence = ?',
      device,
      BigInt(sequence),
    );
    const other = logged !== undefined && logged.digest.toString('hex') !== name;
    if (answer.outcome !== 'rejected') {
      if (logged === undefined) violated('answered as accepted, and not in the log');
      if (other) violated('answered as accepted, and the log has another record');
      return;
    }
    if (answer.rejection?.code !== 'fork') return;
    this.#world.count('forks refused');
    const [kept] = this.#world.disks.rows<{ readonly own: bigint; readonly all: bigint }>(
      STORE.server,
      'SELECT count(*) FILTER (WHERE hex(digest) = ?) AS own, count(*) AS "all" FROM evidence WHERE device = ?',
      name.toUpperCase(),
      device,
    );
    if (kept?.own !== 1n && (kept?.all ?? 0n) < BigInt(FORKS_KEPT)) violated('a fork, and the record is not kept');
    const [head] = this.#world.disks.rows<{ readonly suspended: bigint }>(
      STORE.server,
      'SELECT suspended FROM head WHERE device = ?',
      device,
    );
    if (head?.suspended !== 1n) violated('a fork, and the device is not suspended');
  }

  /** `judge`: false only reads how far all is. */
  #server(judge = true): void {
    const { disks } = this.#world;
    const violated = (what: string): void => {
      if (judge) this.#world.violated('suspension', what);
    };
    const suspended = new Map(
      disks
        .rows<{ readonly device: string; readonly after: bigint }>(
          STORE.server,
          'SELECT device, suspended_after AS after FROM head WHERE suspended = 1',
        )
        .map(({ device, after }) => [device, after]),
    );
    for (const [device, before] of this.#suspended) {
      const after = suspended.get(device);
      if (after === undefined) violated(`${device} was released`);
      else if (after !== before && after !== this.#withdrawnAfter(device)) {
        violated(`records of ${device} stand up to ${after} in place of ${before}, which its withdrawal does not say`);
      }
    }
    for (const row of disks.rows<{
      readonly rowid: bigint;
      readonly device: string;
      readonly digest: Buffer;
      readonly code: string;
    }>(
      STORE.server,
      'SELECT rowid, device, digest, code FROM evidence WHERE rowid > ? ORDER BY rowid',
      this.#evidence,
    )) {
      this.#evidence = row.rowid;
      if (row.code === 'fork' && !suspended.has(row.device)) violated(`${row.device} forked and is not suspended`);
      const name = row.digest.toString('hex');
      if (!this.#seen.sealed.has(name) && !this.#seen.madeWithStolenKeys.has(name)) {
        violated(`${row.device}: evidence that no device made`);
      }
    }
    for (const row of disks.rows<Marked>(
      STORE.server,
      'SELECT cursor, device, sequence, suspended FROM record WHERE cursor > ? ORDER BY cursor',
      this.#logged,
    )) {
      this.#logged = row.cursor;
      const after = this.#suspended.get(row.device);
      if (after !== undefined && (row.suspended === 1n) !== row.sequence > after) {
        violated(`record ${row.sequence} of ${row.device}, suspended after ${after}, is ${marked(row)} in the log`);
      }
    }
    this.#fundsDecided(violated);
    for (const { number, ref } of disks.rows<{ readonly number: bigint; readonly ref: string }>(
      STORE.server,
      "SELECT number, ref FROM entry WHERE number > ? AND kind = 'draw' ORDER BY number",
      this.#entries,
    )) {
      this.#entries = number;
      const [record] = disks.rows<{ readonly device: string; readonly suspended: bigint }>(
        STORE.server,
        'SELECT device, suspended FROM record WHERE digest = ?',
        Buffer.from(ref.split(':')[1] ?? '', 'hex'),
      );
      if (record?.suspended !== 0n) violated(`${ref}: postage of the suspended ${record?.device ?? 'nobody'} drew it`);
    }
    this.#refunded(violated);
    this.#suspended = suspended;
  }

  /** Two people, the scan window by both clocks, and once: the ledger's own check sees a second entry of one ref. */
  #refunded(violated: (what: string) => void): void {
    const { disks } = this.#world;
    for (const row of disks.rows<{ readonly device: string; readonly confirmed_at_ms: bigint }>(
      STORE.server,
      'SELECT device, confirmed_at_ms FROM death WHERE confirmed_by IS NOT NULL',
    )) {
      const name = `${row.device} ${row.confirmed_at_ms}`;
      if (!this.#windowFromMs.has(name)) this.#windowFromMs.set(name, this.#lastSignedMs.get(row.device) ?? 0);
    }
    for (const { number, device } of disks.rows<{ readonly number: bigint; readonly device: string }>(
      STORE.server,
      "SELECT number, substr(ref, 8) AS device FROM entry WHERE number > ? AND ref LIKE 'refund:%' ORDER BY number",
      this.#refunds,
    )) {
      this.#refunds = number;
      if (this.#closed(device, violated)) continue;
      const [death] = disks.rows<{
        readonly declared_by: string;
        readonly confirmed_by: string | null;
        readonly confirmed_at_ms: bigint | null;
      }>(STORE.server, 'SELECT declared_by, confirmed_by, confirmed_at_ms FROM death WHERE device = ?', device);
      const what = `the refund of ${device}`;
      if (death?.confirmed_by == null || death.confirmed_by === death.declared_by) violated(`${what}: not two people`);
      const fromMs = this.#windowFromMs.get(`${device} ${death?.confirmed_at_ms ?? ''}`) ?? Infinity;
      const afterMs = fromMs + SCAN_WINDOW_DAYS * DAY_MS;
      if (this.#world.clockOf('server').nowMs() < afterMs) violated(`${what}: before the scan window by the server`);
      if ((this.#signedMs.get(device) ?? 0) < afterMs) violated(`${what}: before the scan window by signed time`);
      const [fork] = disks.rows(STORE.server, "SELECT 1 FROM evidence WHERE device = ? AND code = 'fork'", device);
      if (fork !== undefined) violated(`${what}, which forked`);
      this.#world.count('dead devices refunded');
    }
  }

  /** Whether the device was closed on its owner's wish: refunded what its final statement, in the log, gave back, by an operator's order. */
  #closed(device: string, violated: (what: string) => void): boolean {
    const { disks } = this.#world;
    const [closure] = disks.rows<{
      readonly operator: string;
      readonly returned_mills: bigint | null;
      readonly logged: bigint;
      readonly refunded: bigint | null;
    }>(
      STORE.server,
      `SELECT operator, returned_mills,
              (SELECT count(*) FROM record r WHERE r.device = c.device AND r.sequence = c.sequence) AS logged,
              (SELECT -l.amount_mills FROM entry e JOIN entry_line l ON l.entry = e.number
               WHERE e.ref = 'refund:' || c.device AND l.account = 'device:' || c.device) AS refunded
       FROM closure c WHERE device = ? AND settled = 'refunded'`,
      device,
    );
    if (closure === undefined) return false;
    const what = `the refund of ${device}, which was closed`;
    if (closure.operator === '' || closure.logged !== 1n) violated(`${what}: without an order or its final statement`);
    if (closure.refunded !== closure.returned_mills) {
      violated(`${what}: ${closure.refunded} mills, and it gave back ${closure.returned_mills}`);
    }
    this.#world.count('closed devices refunded');
    return true;
  }

  /** A decision for a device that an earlier commit had suspended, or on a key that an earlier commit had retired. */
  #fundsDecided(violated: (what: string) => void): void {
    for (const row of this.#world.disks.rows<{
      readonly rowid: bigint;
      readonly device: string;
      readonly number: bigint;
      readonly amount_mills: bigint;
      readonly request: Buffer;
      readonly epoch: bigint | null;
    }>(
      STORE.server,
      `SELECT f.rowid AS rowid, f.device, f.number, f.amount_mills, f.request, h.epoch FROM funds f
       LEFT JOIN head h ON h.device = f.device WHERE f.rowid > ? ORDER BY f.rowid`,
      this.#funds,
    )) {
      this.#funds = row.rowid;
      // An archived grant is booked, whatever the device is now: it was made before.
      if (row.amount_mills === 0n || row.request.length === 0) continue;
      const what = `request ${row.number} of ${row.device} got ${row.amount_mills}`;
      if (this.#suspended.has(row.device)) violated(`${what}, and the device is suspended`);
      const envelope = parseEnvelope(row.request);
      if (envelope.ok && BigInt(envelope.value.key.epoch) < (row.epoch ?? 0n)) {
        violated(`${what} under the key of epoch ${envelope.value.key.epoch}, which is over`);
      }
    }
  }

  #authority(judge = true): void {
    const { disks } = this.#world;
    const violated = (what: string): void => {
      if (judge) this.#world.violated('suspension at the authority', what);
    };
    const suspended = new Map<string, bigint>();
    for (const { device, reason, after } of disks.rows<{
      readonly device: string;
      readonly reason: string;
      readonly after: bigint;
    }>(
      STORE.authority,
      "SELECT device, suspended AS reason, suspended_after AS after FROM device WHERE suspended <> ''",
    )) {
      suspended.set(device, after);
      const named = reason.startsWith('withdrawn') ? this.#withdrawnAfter(device) : null;
      if (named === null || named === after || this.#suspendedAtAuthority.get(device) === after) continue;
      // Below it where the authority has seen a fork itself.
      if (after > named || !this.#forkedAtAuthority(device)) {
        violated(`records of ${device} stand up to ${after}, and its withdrawal names ${named}`);
      }
    }
    for (const device of this.#suspendedAtAuthority.keys()) {
      if (!suspended.has(device)) violated(`${device} was released`);
    }
    for (const row of disks.rows<Marked>(
      STORE.authority,
      'SELECT cursor, device, sequence, suspended FROM record WHERE cursor > ? ORDER BY cursor',
      this.#taken,
    )) {
      this.#taken = row.cursor;
      // In one delivery a word may come with what it is about: it counts, then, and the one before does not.
      const after = suspended.get(row.device);
      if (
        after !== undefined &&
        this.#suspendedAtAuthority.get(row.device) === after &&
        (row.suspended === 1n) !== row.sequence > after
      ) {
        violated(
          `record ${row.sequence} of ${row.device}, suspended after ${after}, was taken as one that is ${marked(row)}`,
        );
      }
    }
    for (const { cursor, bytes } of disks.rows<{ readonly cursor: bigint; readonly bytes: Buffer }>(
      STORE.authority,
      'SELECT cursor, bytes FROM issued_grant WHERE cursor > ? ORDER BY cursor',
      this.#grants,
    )) {
      this.#grants = cursor;
      for (const digest of evidenceOf(bytes)) {
        const [record] = disks.rows<{ readonly suspended: bigint; readonly device: string }>(
          STORE.authority,
          'SELECT suspended, device FROM record WHERE digest = ?',
          digest,
        );
        if (record?.suspended !== 0n)
          violated(`a grant rests on a record of the suspended ${record?.device ?? 'nobody'}`);
        const wrong = this.#seen.wronglyPaid.get(Buffer.from(digest).toString('hex'));
        if (wrong !== undefined) violated(`a grant rests on ${wrong}`);
      }
    }
    this.#suspendedAtAuthority = suspended;
  }

  /** The last record that stands of a withdrawn device, as the cryptographic device signed it; null where it signed none. */
  #withdrawnAfter(device: string): bigint | null {
    const [row] = this.#world.disks.rows<{ readonly suspension: Buffer }>(
      STORE.cryptographicDevice,
      'SELECT suspension FROM withdrawal WHERE device = ?',
      device,
    );
    const word = row === undefined ? null : readUnverified(SUSPENSION, row.suspension);
    return word?.ok === true ? BigInt(word.value.afterSequence ?? 0) : null;
  }

  #forkedAtAuthority(device: string): boolean {
    const rows = this.#world.disks.rows(
      STORE.authority,
      "SELECT 1 FROM quarantine WHERE device = ? AND code = 'fork' LIMIT 1",
      device,
    );
    return rows.length > 0;
  }

  #registersOf(line: number): Registers | undefined {
    return this.#world.disks.rows<Registers>(STORE.psd(line), 'SELECT ascending, descending, received FROM device')[0];
  }

  /** What a copy in secret has cost so far: no more than funds and caps leave it. */
  #spent(line: number, copy: Copy): void {
    const now = this.#registersOf(line);
    if (now === undefined) return;
    copy.costMills = now.ascending - copy.ascending;
    const fundsMills = copy.descending + now.received - copy.received;
    const bound = fundsMills < copy.roomMills ? fundsMills : copy.roomMills;
    if (copy.costMills > bound) {
      this.#world.violated('cost of a copy', `psd-${line} franked ${copy.costMills} mills, at most ${bound} are its`);
    }
  }

  /** What the attack that is not stopped has cost, in mills. */
  get undetectedMills(): bigint {
    return [...this.#secret.values()].reduce((sum, { costMills }) => sum + costMills, 0n);
  }

  /** Whether everything that the line's device still holds has been judged. */
  hasReported(line: number): boolean {
    const device = this.#seen.deviceOfLine.get(line);
    return device === undefined || (this.#held(line, device).length === 0 && !this.#hasOpenBatch(line));
  }

  /** With pieces in it: they were debited, and nothing is reported of them. Of a device that is gone nobody asks. */
  #hasOpenBatch(line: number): boolean {
    if (!this.#world.isDefined(`psd-${line}`)) return false;
    return this.#world.disks.rows(STORE.psd(line), 'SELECT 1 FROM batch WHERE leaves > 0').length > 0;
  }

  /** When all has come to rest: what does not hold of devices that were copied, put back or ended. */
  contradictions(): string[] {
    return [...this.#seen.deviceOfLine]
      .filter(([line]) => !this.#copies.has(line))
      .filter(([line, device]) => this.#seen.branched.has(device) || this.#seen.dead.has(line))
      .flatMap(([line, device]) => [...this.#books(device), ...this.#held(line, device)])
      .concat(this.#paid());
  }

  /** Pieces that count at the authority: those of cells that are paid as the tariff says, of devices in good standing; no spoiled one. */
  #paid(): string[] {
    const { disks } = this.#world;
    const expected = new Map<string, number>();
    for (const { device, digest } of disks.rows<{ readonly device: string; readonly digest: Buffer }>(
      STORE.authority,
      "SELECT device, digest FROM record WHERE suspended = 0 AND type = 'batch-statistics'",
    )) {
      const name = digest.toString('hex');
      const observed = this.#seen.sealed.get(name)?.statistics?.observed;
      if (observed === undefined || observed.incomplete || this.#seen.wronglyPaid.has(name)) continue;
      const pieces = observed.cells.reduce((sum, cell) => sum + cell.pieces, 0);
      expected.set(device, (expected.get(device) ?? 0) + pieces);
    }
    const counted = new Map(
      disks
        .rows<{ readonly device: string; readonly pieces: bigint }>(
          STORE.authority,
          "SELECT device, sum(pieces) AS pieces FROM total WHERE standing = 'paid' GROUP BY device",
        )
        .map(({ device, pieces }) => [device, Number(pieces)]),
    );
    return [...new Set([...expected.keys(), ...counted.keys()])].flatMap((device) => {
      const [one, other] = [expected.get(device) ?? 0, counted.get(device) ?? 0];
      return one === other ? [] : [`${device}: ${other} pieces count at the authority, ${one} were paid`];
    });
  }

  #books(device: string): string[] {
    const { disks } = this.#world;
    const found: string[] = [];
    const count = (path: string, query: string): bigint =>
      disks.rows<{ readonly n: bigint | null }>(path, query, device)[0]?.n ?? 0n;
    const [head] = disks.rows<{
      readonly sequence: bigint;
      readonly suspended: bigint;
      readonly ascending_mills: bigint;
    }>(STORE.server, 'SELECT sequence, suspended, ascending_mills FROM head WHERE device = ?', device);
    const [authority] = disks.rows<{ readonly sequence: bigint; readonly suspended: string }>(
      STORE.authority,
      'SELECT sequence, suspended FROM device WHERE device = ?',
      device,
    );
    const forks = count(STORE.server, "SELECT count(*) AS n FROM evidence WHERE device = ? AND code = 'fork'");
    const forksAtAuthority = count(
      STORE.authority,
      "SELECT count(*) AS n FROM quarantine WHERE device = ? AND code = 'fork'",
    );
    if (forks + forksAtAuthority > 0n) {
      const withdrawn = count(STORE.server, 'SELECT count(*) AS n FROM withdrawal WHERE device = ?');
      if (withdrawn === 0n) found.push(`${device} forked and is not withdrawn`);
      if (head !== undefined && head.suspended !== 1n) found.push(`${device} forked and is not suspended`);
      if (authority !== undefined && authority.suspended === '')
        found.push(`${device} forked, and the authority does not know`);
    }
    const [told] = disks.rows<{ readonly suspension: Buffer | null; readonly after: bigint | null }>(
      STORE.server,
      `SELECT w.suspension, h.suspended_after AS after FROM withdrawal w LEFT JOIN head h ON h.device = w.device
       WHERE w.device = ?`,
      device,
    );
    const named = this.#withdrawnAfter(device);
    if (told?.suspension != null && named !== null && (told.after ?? 0n) < named) {
      found.push(`records of ${device} stand in the log up to ${told.after}, and its withdrawal names ${named}`);
    }
    // What a copy's owner reported, and a restored server lost, only the authority has.
    const lost = this.#seen.serverWasPutBack && (head?.sequence ?? 0n) < (authority?.sequence ?? 0n);
    if (forksAtAuthority === 0n && !lost && (head?.sequence ?? 0n) !== (authority?.sequence ?? 0n)) {
      found.push(`${device}: the log has ${head?.sequence ?? 0n} records, the authority ${authority?.sequence ?? 0n}`);
    }
    const grantedMills = count(STORE.server, 'SELECT sum(amount_mills) AS n FROM funds WHERE device = ?');
    const balanceMills = count(STORE.server, "SELECT balance_mills AS n FROM balance WHERE account = 'device:' || ?");
    const refunded = count(
      STORE.server,
      `SELECT -sum(l.amount_mills) AS n FROM entry e JOIN entry_line l ON l.entry = e.number
       WHERE e.kind = 'refund' AND l.account = 'device:' || ?`,
    );
    const owed = grantedMills - (head?.ascending_mills ?? 0n) - refunded;
    if (owed !== balanceMills) found.push(`${device}: its account is ${balanceMills}, granted less franked is ${owed}`);
    return found;
  }

  /** Every record that the line's PSD still holds has been judged: it is in the log, kept as evidence, or follows one that is. */
  #held(line: number, device: string): string[] {
    // A device that is gone holds nothing any more.
    if (!this.#world.isDefined(`psd-${line}`)) return [];
    const { disks } = this.#world;
    const digests = (path: string, query: string, ...values: unknown[]): Set<string> =>
      new Set(
        disks.rows<{ readonly digest: Buffer }>(path, query, ...values).map(({ digest }) => digest.toString('hex')),
      );
    const logged = digests(STORE.server, 'SELECT digest FROM record WHERE device = ?', device);
    const refused = digests(STORE.server, 'SELECT digest FROM evidence WHERE device = ?', device);
    for (const name of digests(STORE.host(line), "SELECT digest FROM record WHERE state = 'quarantined'"))
      refused.add(name);
    const judged = (name: string): boolean => {
      if (logged.has(name) || refused.has(name)) return true;
      const sealed = this.#seen.sealed.get(name);
      const before = sealed === undefined ? '' : previousOf(sealed.bytes);
      // One that was put back stands on a record that the log never had.
      return before !== '' && !logged.has(before) && this.#seen.sealed.has(before) && judged(before);
    };
    return [...digests(STORE.psd(line), 'SELECT digest FROM record WHERE bytes IS NOT NULL')]
      .filter((name) => !judged(name))
      .map((name) => `psd-${line} still holds ${this.#seen.sealed.get(name)?.sequence ?? '?'} (${name.slice(0, 12)})`);
  }
}

/** The digest of the record before, in hex. */
function previousOf(bytes: Uint8Array): string {
  const statistics = statisticsOf(bytes);
  if (statistics !== null) return Buffer.from(statistics.previous).toString('hex');
  const envelope = parseEnvelope(bytes);
  const rotation = envelope.ok ? parsePayload(KEY_ROTATION, envelope.value) : envelope;
  return rotation.ok ? Buffer.from(rotation.value.previous).toString('hex') : '';
}

function evidenceOf(grant: Uint8Array): readonly Uint8Array[] {
  const envelope = parseEnvelope(grant);
  if (!envelope.ok) return [];
  const parsed = parsePayload(
    envelope.value.type === CREDIT_GRANT.type ? CREDIT_GRANT : DISCOUNT_GRANT,
    envelope.value,
  );
  return parsed.ok ? parsed.value.evidence : [];
}
