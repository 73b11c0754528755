/**
 * Funds for devices: a refill from the licensee's deposit, and drawn credits, in one grant for each request.
 *
 * Guarantees: a request is decided once, durably, with its ledger entry, before the cryptographic device signs; asked again it
 * gets the same grant's bytes; no grant takes the deposit below zero; what the device would hold never exceeds its policy. After a
 * restore from a backup no funds go to a device until the funds that it authenticates are those of the ledger.
 * The open rows of `draw` of a licensee add up to its account of drawn credits, at every moment; a row below zero is what an
 * archived grant had paid to a customer before the ledger saw it drawn.
 * A refusal is a signed grant of zero with its reason: it clears the device's pending number.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { sameBytes } from '@countermark/protocol/digest';
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import {
  type Draw,
  drawSchema,
  FUNDS_GRANT,
  FUNDS_REQUEST,
  type FundsGrant,
  type FundsRequest,
} from '@countermark/protocol/messages/funds';
import { type Currency, formatMills, mills } from '@countermark/protocol/money';
import { type Rejection, type RejectionCode, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { encodeWith, list, parseBytes } from '@countermark/protocol/schema';
import type { SqlDatabase } from '@countermark/sql/database';
import { ENDED_EPOCH } from '@countermark/verify/chain';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import { ACCOUNT, type Ledger, type LedgerTransaction } from './ledger.ts';
import { settleRefunded } from './refund.ts';
import type { Registry } from './registry.ts';
import type { StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';

const draws = list(drawSchema, 1_000);
const DRAWS_MAX = 1_000;

export type FundsParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly ledger: Ledger;
  readonly registry: Registry;
  readonly log: StatisticsLog;
  readonly cryptographicDevice: CryptographicDevice;
  readonly roleKeys: KeySource;
  readonly currency: Currency;
  readonly highestFundsMills: bigint;
  readonly nowMs: () => number;
};

type Decision = {
  readonly depositMills: bigint;
  readonly draws: readonly Draw[];
  readonly refusal: string | undefined;
};

export class Funds {
  readonly #parts: FundsParts;

  constructor(parts: FundsParts) {
    this.#parts = parts;
  }

  /**
   * The grant for a request. Rejections: those of `verifyMessage`, `unknown-device`, `funds-request-conflict`, `superseded-key`, `try-again`;
   * everything else that stands against it is a signed refusal.
   */
  async grant(bytes: Uint8Array): Promise<Result<Uint8Array>> {
    const request = await this.#verified(bytes);
    if (!request.ok) return request;
    const { device, number } = request.value.message;
    const stored = await this.#stored(device, number);
    const conflict = refuse(rejection('funds-request-conflict', { device, number }));
    if (stored?.funds_grant != null && stored.request_digest.length === 0) {
      // Booked from an archive, without its request: that it is this one's, only the cryptographic device knows.
      const again = await this.#parts.cryptographicDevice.fund(bytes, refused('not-available', 'answered before'));
      return again.ok && sameBytes(again.value, stored.funds_grant) ? again : again.ok ? conflict : again;
    }
    if (stored !== undefined && !sameBytes(stored.request_digest, request.value.digest)) return conflict;
    if (stored?.funds_grant != null) return accept(stored.funds_grant);
    const superseded = stored === undefined ? await this.#superseded(request.value) : null;
    if (superseded !== null) return refuse(superseded);
    const decision = stored === undefined ? await this.#decide(request.value) : decisionOf(stored);
    if (decision === null) return conflict;
    const grant = await this.#parts.cryptographicDevice.fund(bytes, decision);
    return grant.ok ? this.#settle(request.value, grant.value) : grant;
  }

  /** Books a funds grant that an archive kept and this server's ledger lost. Rejections: those of `verifyMessage`. */
  async restore(bytes: Uint8Array): Promise<Result<void>> {
    const { roleKeys, registry } = this.#parts;
    const verified = verifyMessage(FUNDS_GRANT, bytes, { port: nodeVerification, keys: roleKeys });
    if (!verified.ok) return verified;
    const grant = verified.value.message;
    if ((await registry.deviceLicensee(grant.device)) !== grant.licensee) {
      return refuse(rejection('unknown-device', { device: grant.device }));
    }
    const depositMills = grant.amountMills - grant.draws.reduce((sum, draw) => sum + draw.amountMills, 0n);
    await this.#parts.database.transaction(async (tables) => {
      const added = await tables
        .insertInto('funds')
        .values({
          device: grant.device,
          number: BigInt(grant.number),
          licensee: grant.licensee,
          request_digest: new Uint8Array(0),
          request: new Uint8Array(0),
          deposit_mills: depositMills,
          draws: encodeWith(draws, grant.draws),
          amount_mills: grant.amountMills,
          refusal: grant.refusal ?? null,
          funds_grant: bytes,
        })
        .onConflict((conflict) => conflict.doNothing())
        .returning('number')
        .executeTakeFirst();
      if (added === undefined) {
        // Decided before the backup was made, and granted after it.
        await this.#settleIn(tables, grant, bytes);
        return;
      }
      await this.#take(tables, grant, grant.draws);
      await this.#book(tables, grant, depositMills, grant.draws, 'restored');
      const causes = new Map([[grant.device, `funds:${grant.device}:${grant.number}`]]);
      await settleRefunded(tables, this.#parts.ledger, causes, this.#parts.nowMs());
    });
    return accept(undefined);
  }

  /** What the next grant to a device of the licensee would pay out of drawn credits. */
  async drawableMills(licensee: LicenseeId): Promise<bigint> {
    return this.#parts.ledger.balance(ACCOUNT.drawn(licensee));
  }

  async #verified(bytes: Uint8Array): Promise<Result<Verified<FundsRequest>>> {
    const { registry } = this.#parts;
    const keys: KeySource = ({ holder, epoch }) => registry.certificateInMemory(holder, epoch)?.message ?? null;
    const verify = () => verifyMessage(FUNDS_REQUEST, bytes, { port: nodeVerification, keys });
    const first = verify();
    if (first.ok || first.rejection.code !== 'unknown-device') return first;
    const [holder = '', epoch = ''] = String(first.rejection.detail['device']).split('#');
    return (await registry.certificate(holder, Number(epoch))) === null ? first : verify();
  }

  /**
   * A device goes over to another key only when no request of its is pending: one under the old key is not its own. It takes no
   * number and moves no money.
   */
  async #superseded({ message: { device }, envelope }: Verified<FundsRequest>): Promise<Rejection | null> {
    const { epoch } = envelope.key;
    const { epoch: current } = await this.#parts.log.head(device);
    if (current === ENDED_EPOCH) return rejection('device-withdrawn', { device });
    return epoch < current ? rejection('superseded-key', { type: 'funds-request', device, epoch, current }) : null;
  }

  async #stored(device: string, number: number): Promise<ServerTables['funds'] | undefined> {
    return this.#parts.database.read(async (tables) =>
      tables
        .selectFrom('funds')
        .selectAll()
        .where('device', '=', device)
        .where('number', '=', BigInt(number))
        .executeTakeFirst(),
    );
  }

  /** Decides and books, durably; null where another request was decided under the number meanwhile. */
  async #decide(request: Verified<FundsRequest>): Promise<Decision | null> {
    const { message, digest, bytes } = request;
    const { device, licensee, number } = message;
    const { registry, log, database } = this.#parts;
    const head = await log.head(device);
    const owner = await registry.deviceLicensee(device);
    const barred =
      owner !== licensee
        ? refused('unknown-device', 'the device is not enrolled for this licensee')
        : head.suspended
          ? refused('device-suspended', `the device is suspended: ${head.reason}`)
          : undefined;
    return database.transaction(async (tables) => {
      const existing = await tables
        .selectFrom('funds')
        .selectAll()
        .where('device', '=', device)
        .where('number', '=', BigInt(number))
        .executeTakeFirst();
      if (existing !== undefined) return sameBytes(existing.request_digest, digest) ? decisionOf(existing) : null;
      const decision = barred ?? (await this.#reckoned(tables, message));
      const drawnMills = decision.draws.reduce((sum, draw) => sum + draw.amountMills, 0n);
      await tables
        .insertInto('funds')
        .values({
          device,
          number: BigInt(number),
          licensee,
          request_digest: digest,
          request: bytes,
          deposit_mills: decision.depositMills,
          draws: encodeWith(draws, decision.draws),
          amount_mills: decision.depositMills + drawnMills,
          refusal: decision.refusal ?? null,
          funds_grant: null,
        })
        .execute();
      await this.#book(tables, message, decision.depositMills, decision.draws, 'granted');
      return decision;
    });
  }

  async #reckoned(tables: LedgerTransaction, request: FundsRequest): Promise<Decision> {
    const { device, licensee, number, amountMills, registers, currency } = request;
    const own = this.#parts.currency;
    if (currency.code !== own.code || currency.exponent !== own.exponent) {
      return refused('not-available', `the device reckons in ${currency.code}, this server in ${own.code}`);
    }
    const earlier = await tables
      .selectFrom('funds')
      .select((eb) => eb.fn.sum<bigint>('amount_mills').as('sum'))
      .where('device', '=', device)
      .where('number', '<', BigInt(number))
      .executeTakeFirst();
    const grantedMills = earlier?.sum ?? 0n;
    if (grantedMills !== request.funds.receivedMills) {
      return refused(
        'funds-total-mismatch',
        `the device has received ${formatMills(request.funds.receivedMills, own)}, the ledger knows of ${formatMills(grantedMills, own)}: archived grants must be booked first`,
      );
    }
    const roomMills = this.#parts.highestFundsMills - registers.descendingMills;
    if (roomMills <= 0n) return refused('funds-limit', 'the device holds as much as its policy allows');
    const depositMills = amountMills < roomMills ? amountMills : roomMills;
    const availableMills = await this.#parts.ledger.balanceIn(tables, ACCOUNT.deposit(licensee));
    // A deposit can be in debt for a dead device's late postage; what was drawn is the licensee's all the same.
    if (depositMills > 0n && depositMills > availableMills) {
      return refused(
        'insufficient-deposit',
        `the deposit holds ${formatMills(availableMills, own)}; ${formatMills(depositMills, own)} were asked`,
      );
    }
    return {
      depositMills,
      draws: await this.#drawn(tables, request, roomMills - depositMills),
      refusal: undefined,
    };
  }

  /** Takes open draws, oldest first, as long as each fits in the room; named in the grant by customer. */
  async #drawn(tables: LedgerTransaction, request: FundsRequest, roomMills: bigint): Promise<readonly Draw[]> {
    const { device, licensee, number } = request;
    const open = await tables
      .selectFrom('draw')
      .selectAll()
      .where('licensee', '=', licensee)
      .where('device', 'is', null)
      .orderBy('ref')
      .execute();
    const byCustomer = new Map<string, bigint>();
    const taken: string[] = [];
    let leftMills = roomMills;
    for (const { customer, amountMills, refs } of payable(open)) {
      if (amountMills > leftMills) continue;
      if (!byCustomer.has(customer) && byCustomer.size >= DRAWS_MAX) continue;
      leftMills -= amountMills;
      byCustomer.set(customer, (byCustomer.get(customer) ?? 0n) + amountMills);
      taken.push(...refs);
    }
    for (let first = 0; first < taken.length; first += 500) {
      await tables
        .updateTable('draw')
        .set({ device, number: BigInt(number) })
        .where('ref', 'in', taken.slice(first, first + 500))
        .execute();
    }
    return [...byCustomer]
      .sort(([one], [other]) => (one < other ? -1 : 1))
      .map(([customer, amount]) => ({
        ...(customer === '' ? {} : { customer: customer as CustomerId }),
        amountMills: mills(amount),
      }));
  }

  /** Takes out of the open draws what a grant names that was made elsewhere; what is not open yet is owed by that customer's next. */
  async #take(
    tables: LedgerTransaction,
    { device, licensee, number }: Pick<FundsRequest, 'device' | 'licensee' | 'number'>,
    drawn: readonly Draw[],
  ): Promise<void> {
    const by = { device, number: BigInt(number) };
    for (const { customer = '', amountMills } of drawn) {
      const open = await tables
        .selectFrom('draw')
        .selectAll()
        .where('licensee', '=', licensee)
        .where('device', 'is', null)
        .where('customer', '=', customer)
        .where('amount_mills', '>', 0n)
        .orderBy('ref')
        .execute();
      let leftMills: bigint = amountMills;
      for (const { ref, amount_mills: openMills } of open) {
        if (leftMills === 0n) break;
        const partMills = openMills < leftMills ? openMills : leftMills;
        leftMills -= partMills;
        if (partMills === openMills) {
          await tables.updateTable('draw').set(by).where('ref', '=', ref).execute();
          continue;
        }
        await tables
          .updateTable('draw')
          .set({ amount_mills: openMills - partMills })
          .where('ref', '=', ref)
          .execute();
        await tables
          .insertInto('draw')
          .values({ ref: `${ref}:${device}:${number}`, licensee, customer, amount_mills: partMills, ...by })
          .execute();
      }
      if (leftMills === 0n) continue;
      const ref = `owed:${device}:${number}:${customer}`;
      await tables
        .insertInto('draw')
        .values({ ref, licensee, customer, amount_mills: -leftMills, device: null, number: null })
        .execute();
    }
  }

  /** The one entry of a request: from the deposit and the drawn credits into the device. */
  async #book(
    tables: LedgerTransaction,
    { device, licensee, number }: Pick<FundsRequest, 'device' | 'licensee' | 'number'>,
    depositMills: bigint,
    drawn: readonly Draw[],
    how: string,
  ): Promise<void> {
    const drawnMills = drawn.reduce((sum, draw) => sum + draw.amountMills, 0n);
    if (depositMills + drawnMills === 0n) return;
    await this.#parts.ledger.bookIn(tables, [
      {
        ref: `funds:${device}:${number}`,
        kind: 'funds',
        note: `Funds request ${number} of ${device}, ${how}`,
        atMs: this.#parts.nowMs(),
        lines: [
          { account: ACCOUNT.deposit(licensee), amountMills: -depositMills },
          { account: ACCOUNT.drawn(licensee), amountMills: -drawnMills },
          { account: ACCOUNT.device(device), amountMills: depositMills + drawnMills },
        ],
      },
    ]);
  }

  /** Stores the grant if there is none and answers what is stored; books the difference if the grant was decided earlier, otherwise. */
  async #settle(request: Verified<FundsRequest>, bytes: Uint8Array): Promise<Result<Uint8Array>> {
    const verified = verifyMessage(FUNDS_GRANT, bytes, { port: nodeVerification, keys: this.#parts.roleKeys });
    if (!verified.ok) return verified;
    const grant = verified.value.message;
    const { device, number } = request.message;
    if (grant.device !== device || grant.number !== number) {
      return refuse(rejection('wrong-device', { type: FUNDS_GRANT.type, device: grant.device, expected: device }));
    }
    return accept(await this.#parts.database.transaction(async (tables) => this.#settleIn(tables, grant, bytes)));
  }

  /** The same within a unit of work: a request that was decided gets its grant, once. */
  async #settleIn(tables: LedgerTransaction, grant: FundsGrant, bytes: Uint8Array): Promise<Uint8Array> {
    const { device, licensee, number } = grant;
    const row = await tables
      .selectFrom('funds')
      .selectAll()
      .where('device', '=', device)
      .where('number', '=', BigInt(number))
      .executeTakeFirst();
    if (row === undefined) throw new TypeError('a request is settled that was not decided');
    if (row.funds_grant !== null) return row.funds_grant;
    const decision = decisionOf(row);
    const grantDrawn = grant.draws.reduce((sum, draw) => sum + draw.amountMills, 0n);
    const decidedDrawn = decision.draws.reduce((sum, draw) => sum + draw.amountMills, 0n);
    const depositMore = grant.amountMills - grantDrawn - decision.depositMills;
    const drawnMore = grantDrawn - decidedDrawn;
    await tables
      .updateTable('funds')
      .set({
        funds_grant: bytes,
        amount_mills: grant.amountMills,
        deposit_mills: grant.amountMills - grantDrawn,
        draws: encodeWith(draws, grant.draws),
        refusal: grant.refusal ?? null,
      })
      .where('device', '=', device)
      .where('number', '=', BigInt(number))
      .execute();
    if (!sameBytes(encodeWith(draws, grant.draws), encodeWith(draws, decision.draws))) {
      await tables
        .updateTable('draw')
        .set({ device: null, number: null })
        .where('device', '=', device)
        .where('number', '=', BigInt(number))
        .execute();
      await this.#take(tables, grant, grant.draws);
    }
    if (depositMore !== 0n || drawnMore !== 0n) {
      // The cryptographic device had granted this request before the server was restored from a backup.
      await this.#parts.ledger.bookIn(tables, [
        {
          ref: `funds-correction:${device}:${number}`,
          kind: 'correction',
          note: `Funds request ${number} of ${device} had been granted before, with other amounts`,
          atMs: this.#parts.nowMs(),
          lines: [
            { account: ACCOUNT.deposit(licensee), amountMills: -depositMore },
            { account: ACCOUNT.drawn(licensee), amountMills: -drawnMore },
            { account: ACCOUNT.device(device), amountMills: depositMore + drawnMore },
          ],
        },
      ]);
      const causes = new Map([[device, `funds-correction:${device}:${number}`]]);
      await settleRefunded(tables, this.#parts.ledger, causes, this.#parts.nowMs());
    }
    return bytes;
  }
}

/** What can be paid at once or not at all: a draw, or everything of a customer who owes, if that is more than nothing. */
function payable(
  open: readonly ServerTables['draw'][],
): readonly { readonly customer: string; readonly amountMills: bigint; readonly refs: readonly string[] }[] {
  const owing = new Set(open.filter((draw) => draw.amount_mills < 0n).map((draw) => draw.customer));
  const netted = [...owing].map((customer) => {
    const own = open.filter((draw) => draw.customer === customer);
    const amountMills = own.reduce((sum, draw) => sum + draw.amount_mills, 0n);
    return { customer, amountMills, refs: own.map((draw) => draw.ref) };
  });
  const single = open
    .filter((draw) => !owing.has(draw.customer))
    .map((draw) => ({ customer: draw.customer, amountMills: draw.amount_mills, refs: [draw.ref] }));
  return [...netted.filter(({ amountMills }) => amountMills > 0n), ...single];
}

/** The refusal begins with a code of the catalogue, so that a host can branch on it. */
function refused(code: RejectionCode, reason: string): Decision {
  // The grant's field holds 200 bytes.
  return { depositMills: 0n, draws: [], refusal: `${code}: ${reason}`.slice(0, 200) };
}

function decisionOf(row: ServerTables['funds']): Decision {
  const stored = parseBytes(draws, row.draws);
  if (!stored.ok) throw new TypeError('stored draws cannot be read');
  return { depositMills: row.deposit_mills, draws: stored.value, refusal: row.refusal ?? undefined };
}
