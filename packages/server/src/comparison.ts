/**
 * The server's log, registry and ledger held against what the other parties of an installation testify (see examination.ts).
 *
 * Guarantees, where it says nothing: what a device has deleted, and what a host has archived as confirmed, is in the log with the
 * same digest; no party has another record in the same place of a chain; the authority has the log's records up to where
 * they were delivered, and no others; grants are the same here and there; every funds grant of device, host and
 * cryptographic device is in the ledger; and money is conserved: what a device's account holds is what the device holds, plus
 * what is on its way to it, plus what it has franked that is not yet booked.
 * What is merely on its way (a record that is held, a grant that is not yet fetched) is no problem.
 */
import type { Examination, Testimony } from '@countermark/node-platform/examination';
import { sha256 } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { digestText } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import type { Currency } from '@countermark/protocol/money';
import { DELIVERY_FOLLOWER, GRANTS_FOLLOWER } from './delivery-marks.ts';
import { followerCursor } from './follower.ts';
import { ACCOUNT } from './ledger.ts';
import type { LogCheckParts } from './log-check.ts';

export class Comparison {
  readonly #parts: LogCheckParts;
  readonly #examination: Examination;
  /** Where the authority's chain of a device ends. */
  readonly #heads = new Map<DeviceId, number>();
  #authority: Testimony | undefined;
  /** The last funds grant that the cryptographic device signed, by device; null where it was not examined. */
  #signed: Map<string, bigint> | null = null;

  readonly #currency: Currency;

  constructor(parts: LogCheckParts, examination: Examination, currency: Currency) {
    this.#parts = parts;
    this.#examination = examination;
    this.#currency = currency;
  }

  /** Compares with everything that was testified. */
  async all(): Promise<void> {
    let done = 0;
    for await (const said of this.#examination.others()) {
      if (++done % 500 === 0) this.#examination.progress('what other parties say', done);
      if (said.kind === 'record') await this.#record(said);
      else if (said.kind === 'device') await this.#device(said);
      else if (said.kind === 'funds-grant') await this.#fundsGrant(said);
      else if (said.kind === 'certificate') await this.#certificate(said);
      else if (said.kind === 'head') await this.#head(said);
      else if (said.kind === 'grant') await this.#grant(said);
      else if (said.kind === 'intake') this.#authority = said;
    }
    if (this.#authority !== undefined) await this.#delivered(this.#authority);
    if (this.#signed !== null) await this.#unsigned(this.#signed);
  }

  async #record({ party, device, sequence, digest, held, state }: Testimony): Promise<void> {
    if (device === null) return;
    const entry = await this.#parts.log.entry(device as DeviceId, Number(sequence));
    const name = `record ${String(sequence)} of ${String(device)}`;
    if (entry !== null) {
      if (digestText(entry.digest) !== digest) {
        this.#problem(`${name}: the log has another one than the ${party === 'psd' ? 'device' : 'host'} (a fork)`);
      }
      return;
    }
    if (party === 'psd' && held === false) {
      this.#problem(
        `${name} was confirmed and deleted by the device, and the log does not have it: feed the log from the host's archive`,
      );
    } else if (party === 'host' && state === 'confirmed') {
      this.#problem(
        `${name} is confirmed in the host's archive, and the log does not have it: the host feeds it again when both run`,
      );
    }
  }

  /** Money between device and ledger. */
  async #device(said: Testimony): Promise<void> {
    const device = said.device as DeviceId;
    const { database, registry } = this.#parts;
    const owner = await registry.deviceLicensee(device);
    if (owner === null) {
      if (Number(said.sequence) > 0)
        this.#problem(`the device ${device} is not enrolled here, and has ${String(said.sequence)} records`);
      return;
    }
    if (said.licensee !== null && said.licensee !== owner) {
      this.#problem(`the device ${device} belongs to ${owner} here, to ${String(said.licensee)} by its certificate`);
    }
    const grants = await database.read((tables) =>
      tables.selectFrom('funds').select(['number', 'amount_mills']).where('device', '=', device).execute(),
    );
    const sum = (rows: typeof grants): bigint => rows.reduce((total, { amount_mills: mills }) => total + mills, 0n);
    const taken = sum(grants.filter(({ number }) => number <= BigInt(Number(said.lastGrant))));
    const inFlightMills = sum(grants.filter(({ number }) => number > BigInt(Number(said.lastGrant))));
    const received = BigInt(String(said.receivedMills));
    if (taken !== received) {
      this.#problem(
        `the device ${device} has received ${received} mills by its funds grants up to ${String(said.lastGrant)}; the ledger granted ${taken}`,
      );
    }
    const moved = await database.read((tables) =>
      tables
        .selectFrom('entry_line')
        .innerJoin('entry', 'entry.number', 'entry_line.entry')
        .select((eb) => ['entry.kind', eb.fn.sum<bigint>('entry_line.amount_mills').as('sum')])
        .where('entry_line.account', '=', ACCOUNT.device(device))
        .groupBy('entry.kind')
        .execute(),
    );
    const of = (kind: string): bigint => moved.find((row) => row.kind === kind)?.sum ?? 0n;
    const accountMills = moved.reduce((total, row) => total + row.sum, 0n);
    const holdsMills = BigInt(String(said.descendingMills));
    const unbookedMills = BigInt(String(said.ascendingMills)) + of('postage');
    const returnedMills = BigInt(String(said.returnedMills));
    const refundedMills = -of('refund');
    const differenceMills = holdsMills + inFlightMills + unbookedMills + returnedMills - refundedMills - accountMills;
    if (unbookedMills < 0n) {
      this.#problem(
        `the ledger has booked ${-of('postage')} mills of postage of ${device}, which has franked only ${String(said.ascendingMills)}: the device's store is an older copy`,
      );
    } else if (differenceMills !== 0n) {
      this.#problem(
        `money is not conserved: the account of ${device} holds ${accountMills} mills; the device ${holdsMills}, ${inFlightMills} on the way to it, ${unbookedMills} franked and not booked`,
      );
    }
    this.#examination.testify({
      party: 'server',
      kind: 'money',
      device,
      currency: this.#currency.code,
      exponent: this.#currency.exponent,
      accountMills: String(accountMills),
      holdsMills: String(holdsMills),
      inFlightMills: String(inFlightMills),
      unbookedMills: String(unbookedMills),
    });
  }

  async #fundsGrant({ party, device, number, digest, amountMills }: Testimony): Promise<void> {
    // Numbers of a device come in ascending order.
    if (party === 'cryptographic-device') this.#signed?.set(String(device), BigInt(Number(number)));
    const row = await this.#parts.database.read((tables) =>
      tables
        .selectFrom('funds')
        .select(['funds_grant', 'amount_mills'])
        .where('device', '=', String(device))
        .where('number', '=', BigInt(Number(number)))
        .executeTakeFirst(),
    );
    const name = `the funds grant ${String(number)} of ${String(device)}`;
    if (row === undefined) {
      this.#problem(
        `${name} is known to the ${party === 'host' ? 'host' : 'cryptographic device'} and not in the ledger`,
      );
      return;
    }
    if (String(row.amount_mills) !== amountMills) {
      this.#problem(`${name} is of ${String(amountMills)} mills by the ${party}, of ${row.amount_mills} in the ledger`);
    }
    const envelope = row.funds_grant === null ? null : parseEnvelope(row.funds_grant);
    if (envelope?.ok === true && digestText(messageDigest(envelope.value, sha256)) !== digest) {
      this.#problem(`${name} is another message at the ${party} than in the ledger`);
    }
  }

  async #certificate({ device, epoch, digest, licensee }: Testimony): Promise<void> {
    this.#signed ??= new Map();
    const certificate = await this.#parts.registry.certificate(String(device), Number(epoch));
    // One that was signed and not yet stored is asked for again.
    if (certificate === null) return;
    if (digestText(certificate.digest) !== digest || certificate.message.licensee !== licensee) {
      this.#problem(
        `the certificate of ${String(device)}, epoch ${String(epoch)}, is another one at the cryptographic device`,
      );
    }
  }

  async #head({ device, sequence, digest }: Testimony): Promise<void> {
    this.#heads.set(device as DeviceId, Number(sequence));
    if (sequence === 0) return;
    const entry = await this.#parts.log.entry(device as DeviceId, Number(sequence));
    const name = `record ${String(sequence)} of ${String(device)}`;
    if (entry === null) this.#problem(`the authority has ${name}, and the log does not: the log's end is lost`);
    else if (digestText(entry.digest) !== digest) this.#problem(`the authority has another ${name} than the log`);
  }

  /** A grant of the host's archive is booked in the same place; one of the authority's in any, once it was asked for. */
  async #grant({ party, cursor, digest }: Testimony): Promise<void> {
    const { database } = this.#parts;
    const at = BigInt(Number(cursor));
    const [placed] = await this.#booked('cursor', at);
    if (party === 'host') {
      if (placed === undefined) this.#problem(`grant ${at} is in the host's archive and not booked here`);
      else if (digestText(placed.digest) !== digest) {
        this.#problem(`grant ${at} is another one at the host than the one booked here`);
      }
      return;
    }
    const asked = await followerCursor(database, GRANTS_FOLLOWER);
    if (at > asked || (placed !== undefined && digestText(placed.digest) === digest)) return;
    const [elsewhere] = await this.#booked('digest', Buffer.from(String(digest), 'hex'));
    if (elsewhere !== undefined) return;
    this.#problem(
      placed === undefined
        ? `grant ${at} of the authority is not booked, though grants up to ${asked} are said to be`
        : `grant ${at} is another one at the authority than the one booked here`,
    );
  }

  async #booked(
    column: 'cursor' | 'digest',
    value: bigint | Uint8Array,
  ): Promise<readonly { readonly digest: Uint8Array }[]> {
    return this.#parts.database.read((tables) =>
      tables.selectFrom('booked_grant').select('digest').where(column, '=', value).execute(),
    );
  }

  /** The authority has what was delivered to it, and issued what was booked. */
  async #delivered(intake: Testimony): Promise<void> {
    const { database, log } = this.#parts;
    const cursor = await followerCursor(database, DELIVERY_FOLLOWER);
    const devices = await database.read((tables) => tables.selectFrom('head').select('device').execute());
    for (const row of devices) {
      const device = row.device as DeviceId;
      const delivered = await log.sequenceAt(device, cursor);
      const taken = this.#heads.get(device) ?? 0;
      if (taken < delivered) {
        this.#problem(
          `the authority has the records of ${device} up to ${taken}; up to ${delivered} were delivered: the next delivery feeds it again, unless it refused one`,
        );
      }
    }
    const last = await database.read((tables) =>
      tables
        .selectFrom('booked_grant')
        .select((eb) => eb.fn.max('cursor').as('cursor'))
        .executeTakeFirst(),
    );
    const booked = last?.cursor ?? 0n;
    if (booked > BigInt(Number(intake.grants))) {
      this.#problem(
        `grants up to ${booked} are booked; the authority has issued ${String(intake.grants)}: its store is an older copy`,
      );
    }
  }

  /** Funds grants that the ledger has, and the register of the cryptographic device does not. */
  async #unsigned(signed: ReadonlyMap<string, bigint>): Promise<void> {
    const rows = await this.#parts.database.read((tables) =>
      tables
        .selectFrom('funds')
        .select((eb) => ['device', eb.fn.max('number').as('number')])
        .where('funds_grant', 'is not', null)
        .groupBy('device')
        .execute(),
    );
    for (const { device, number } of rows) {
      const last = signed.get(device) ?? 0n;
      if (number <= last) continue;
      this.#problem(
        `the funds grant ${number} of ${device} is in the ledger, and the cryptographic device knows of ${last}: its register is an older copy`,
      );
    }
  }

  #problem(words: string): void {
    this.#examination.problem(words);
  }
}
