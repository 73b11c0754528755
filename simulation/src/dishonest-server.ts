/**
 * A server that lies: it has its store, the socket of its cryptographic device, and what hosts send it; it has no key.
 *
 * It answers a host with a confirmation for a record that it never logs, asks the cryptographic device for what is not so, and keeps records from
 * the authority while its own books say that they were delivered. What
 * comes of it is judged by the other parties: the host brings what was confirmed back from its archive, and people bring it to the
 * postal authority themselves; a point of its history that the authority never came by betrays the books. What it can do because only it knows (policies, suspensions, the deposit) is not tried here: SECURITY.md.
 */
import { readUnverified } from '@countermark/host/unverified-message';
import { Fault } from '@countermark/node-platform/fault';
import { sha256 } from '@countermark/node-platform/verification';
import { concat } from '@countermark/protocol/bytes';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestOf } from '@countermark/protocol/digest';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import type { Delivery } from '@countermark/protocol/interfaces/delivery';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { SUSPENSION } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import { accept, type Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { lazyRpc } from './machine/rpc.ts';
import type { Mailer } from './mailers.ts';
import { CallBroken } from './network.ts';
import { digestOfRecord, type Observation, oneBitOff } from './observation.ts';
import type { Occasions } from './occasions.ts';
import { AUTHORITY_URL, CD_SOCKET, SERVER_URL, STORE } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import type { World } from './world.ts';

/** The kinds of what it does, and of what people do about it. */
export const SERVER_MISDEEDS = [
  'server confirms and does not log',
  'server asks for what is not so',
  'server withholds deliveries',
  'records brought to the authority',
] as const;

const HOUR_MS = 3_600_000;
const { authenticate, confirm, enrol, fund, suspend } = CRYPTOGRAPHIC_DEVICE;
/** As many as one request to the authority holds. */
const BROUGHT_MOST = 64;

export type DishonestServerOptions = {
  readonly occasions: Occasions;
  readonly seen: Observation;
  readonly mailers: readonly Mailer[];
};

export class DishonestServer {
  readonly #world: World;
  readonly #options: DishonestServerOptions;
  /** It answers so many more submissions with a lie. */
  #lies = 0;
  /** It keeps so many more deliveries to itself. */
  #withheld = 0;

  constructor(world: World, options: DishonestServerOptions) {
    this.#world = world;
    this.#options = options;
  }

  begin(): void {
    const { occasions } = this.#options;
    if (occasions.has('server confirms and does not log')) {
      this.#standBefore();
      this.#world.onStarted((name) => {
        if (name === 'server') this.#standBefore();
      });
    }
    if (occasions.has('server withholds deliveries')) {
      this.#standBeforeTheAuthority();
      this.#world.onStarted((name) => {
        if (name === 'authority') this.#standBeforeTheAuthority();
      });
    }
    occasions.nowAndThen('server withholds deliveries', 3 * HOUR_MS, (random) => {
      this.#withheld = random.whole(1, 6);
    });
    occasions.nowAndThen('server confirms and does not log', 2 * HOUR_MS, (random) => {
      this.#lies = random.whole(1, 3);
    });
    occasions.nowAndThen('server asks for what is not so', 2 * HOUR_MS, (random) => {
      this.#does(this.#asks(random));
    });
    occasions.nowAndThen('records brought to the authority', 3 * HOUR_MS, (random) => {
      this.#does(this.#bring(random.pick(this.#options.mailers)));
    });
  }

  end(): void {
    this.#lies = 0;
    this.#withheld = 0;
  }

  /** Takes what comes to the server's address before its own program does. */
  #standBefore(): void {
    const { network } = this.#world;
    const honest = network.service(SERVER_URL);
    if (honest === undefined) return;
    network.serve(SERVER_URL, {
      process: honest.process,
      handle: async (operation, parameters, caller) => {
        if (operation === 'submit' && this.#lies > 0 && caller.startsWith('host-')) {
          this.#lies -= 1;
          const lied = await this.#lie((parameters as { readonly records: readonly Uint8Array[] }).records);
          if (lied !== null) return lied;
        }
        return honest.handle(operation, parameters, caller);
      },
    });
  }

  /** Takes what the server's own program delivers before it leaves the machine, and answers as the authority would. */
  #standBeforeTheAuthority(): void {
    const { network } = this.#world;
    const honest = network.service(AUTHORITY_URL);
    if (honest === undefined) return;
    network.serve(AUTHORITY_URL, {
      process: honest.process,
      handle: async (operation, parameters, caller) => {
        if (operation !== 'deliver' || caller !== 'server' || this.#withheld === 0) {
          return honest.handle(operation, parameters, caller);
        }
        this.#withheld -= 1;
        const { items, since } = parameters as Delivery;
        // Whatever its log has: on this way a record may have been altered, too, and its cursor is put back meanwhile. What never comes is seen at the end.
        for (const { name } of this.#world.disks.rows<{ readonly name: string }>(
          STORE.server,
          'SELECT lower(hex(digest)) AS name FROM record',
        )) {
          this.#options.seen.withheld.add(name);
        }
        this.#world.count('records withheld', items.length);
        return accept({
          cursor: (since?.cursor ?? 0) + items.length,
          results: items.map(() => ({ outcome: 'accepted' })),
          history: digestOf(sha256(concat(items.map(({ record }) => record)))),
          continues: true,
        });
      },
    });
  }

  /** Confirmations for authentic records that the log never sees; null where the cryptographic device gives none. */
  async #lie(records: readonly Uint8Array[]): Promise<Result<unknown> | null> {
    const attested = await this.#ask(authenticate, { records });
    if (attested?.ok !== true) return null;
    const items = attested.value.results.flatMap(({ attestation }, i) =>
      attestation === undefined ? [] : [{ record: records[i] as Uint8Array, attestation }],
    );
    if (items.length !== records.length) return null;
    for (const { record } of items) this.#options.seen.confirmedByALie.add(digestOfRecord(record) ?? '');
    const confirmed = await this.#ask(confirm, { items });
    if (confirmed?.ok !== true || confirmed.value.results.some(({ confirmation }) => confirmation === undefined))
      return null;
    this.#world.count('records confirmed by a lie', items.length);
    return accept(
      confirmed.value.results.map(({ confirmation }, i) => ({
        outcome: 'accepted',
        confirmation,
        attestation: items[i]?.attestation,
      })),
    );
  }

  /** What the cryptographic device must not sign. */
  async #asks(random: RandomStream): Promise<void> {
    const { disks } = this.#world;
    const never = (what: string): void => {
      this.#world.violated('cryptographic device', `it signed ${what}`);
    };
    const rows = disks.rows<{ readonly device: string; readonly record: Buffer; readonly attestation: Buffer }>(
      STORE.server,
      'SELECT device, record, attestation FROM record ORDER BY cursor DESC LIMIT 8',
    );
    const [one, other] = rows;
    if (one !== undefined && other !== undefined) {
      const flipped = oneBitOff(one.record, random.whole(0, 30));
      const items = [
        { record: new Uint8Array(one.record), attestation: new Uint8Array(other.attestation) },
        { record: new Uint8Array(one.record), attestation: new Uint8Array(one.record) },
        { record: flipped, attestation: new Uint8Array(one.attestation) },
      ];
      const answered = await this.#ask(confirm, { items });
      if (answered?.ok === true && answered.value.results.some(({ confirmation }) => confirmation !== undefined))
        never('a confirmation without the attestation of that very record');
      const authentic = await this.#ask(authenticate, { records: [flipped] });
      if (authentic?.ok === true && authentic.value.results[0]?.attestation !== undefined) never('an altered record');
      await this.#suspendsAfter(one.device, { ...one, attestation: oneBitOff(one.attestation, 0) }, never);
      await this.#suspendsAfter(one.device, items[0], never);
      if (other.device !== one.device) await this.#suspendsAfter(other.device, { ...one }, never);
    }
    const requests = disks.rows<{ readonly request: Buffer; readonly amount_mills: bigint; readonly device: string }>(
      STORE.server,
      'SELECT request, amount_mills, device FROM funds WHERE length(request) > 0 LIMIT 6',
    );
    if (requests.length > 0) {
      // Again, and more than was asked: the first answer is the answer.
      const { request } = random.pick(requests);
      await this.#ask(fund, { request: new Uint8Array(request), depositMills: mills(9_000_000n), draws: [] });
      const altered = oneBitOff(request, 0);
      const answered = await this.#ask(fund, { request: altered, depositMills: mills(1n), draws: [] });
      if (answered?.ok === true) never('funds for a request that no device made');
    }
    const [certificate] = disks.rows<{ readonly request: Buffer }>(
      STORE.server,
      'SELECT request FROM certificate LIMIT 1',
    );
    if (certificate !== undefined) {
      const altered = oneBitOff(certificate.request, 0);
      const answered = await this.#ask(enrol, { request: altered, licensee: 'lic_rogue' as never, certified: true });
      if (answered?.ok === true) never('a certificate for keys that nobody has');
    }
    const [withdrawn] = disks.rows<{ readonly device: string; readonly licensee: string }>(
      STORE.server,
      'SELECT w.device, d.licensee FROM withdrawal w JOIN device d ON d.device = w.device WHERE w.suspension IS NOT NULL LIMIT 1',
    );
    if (withdrawn !== undefined) {
      const { device, licensee } = withdrawn;
      const words = { device: device as never, licensee: licensee as never, suspended: false, reason: '' };
      if ((await this.#ask(suspend, words))?.ok === true) never(`the release of ${device}, which was withdrawn`);
    }
  }

  /** A suspension behind which stands what the device did not seal, or nobody attested; a withdrawal that it signed before is no new word. */
  async #suspendsAfter(
    device: string,
    {
      record,
      attestation,
    }: { readonly record?: Uint8Array | undefined; readonly attestation?: Uint8Array | undefined } = {},
    never: (what: string) => void,
  ): Promise<void> {
    const [row] = this.#world.disks.rows<{ readonly licensee: string }>(
      STORE.server,
      'SELECT licensee FROM device WHERE device = ?',
      device,
    );
    if (row === undefined || record === undefined || attestation === undefined) return;
    const last = { record: new Uint8Array(record), attestation: new Uint8Array(attestation) };
    const words = { device: device as never, licensee: row.licensee as never, suspended: true, reason: 'a fork', last };
    const answered = await this.#ask(suspend, words);
    const said = answered?.ok === true ? readUnverified(SUSPENSION, answered.value.suspension) : null;
    if (said?.ok === true && said.value.withdrawn !== true)
      never('a suspension after a record that is not the device’s, or not attested');
  }

  /** `countermark evidence submit`: a host's archive, brought to the postal authority itself. */
  async #bring({ line: { line } }: Mailer): Promise<void> {
    const { disks, network } = this.#world;
    const device = this.#options.seen.deviceOfLine.get(line);
    if (device === undefined) return;
    const [head] = disks.rows<{ readonly sequence: bigint }>(
      STORE.authority,
      'SELECT sequence FROM device WHERE device = ?',
      device,
    );
    const items = disks
      .rows<{ readonly bytes: Buffer; readonly attestation: Buffer; readonly confirmation: Buffer }>(
        STORE.host(line),
        `SELECT bytes, attestation, confirmation FROM record
         WHERE sequence >= ? AND attestation IS NOT NULL AND confirmation IS NOT NULL ORDER BY sequence LIMIT ?`,
        head?.sequence ?? 1n,
        BigInt(BROUGHT_MOST),
      )
      .map(({ bytes, attestation, confirmation }) => ({
        record: new Uint8Array(bytes),
        attestation: new Uint8Array(attestation),
        confirmation: new Uint8Array(confirmation),
      }));
    if (items.length === 0) return;
    const certificates = disks
      .rows<{ readonly value: Buffer }>(STORE.host(line), 'SELECT value FROM kept')
      .map(({ value }) => new Uint8Array(value))
      .filter((bytes) => {
        const envelope = parseEnvelope(bytes);
        return envelope.ok && envelope.value.type === DEVICE_CERTIFICATE.type;
      });
    try {
      await network.remote(AUTHORITY_URL, 'evidence', { certificates, items });
      this.#world.count('records brought to the authority', items.length);
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
    }
  }

  async #ask<Request, Given>(of: Operation<Request, Given>, request: Request): Promise<Result<Given> | null> {
    try {
      const answer = await lazyRpc(CD_SOCKET).call(of.name, of.request.toCbor(request));
      return answer.ok ? parseValue(of.answer, answer.value) : answer;
    } catch (error) {
      if (!(error instanceof Fault || error instanceof CallBroken)) throw error;
      return null;
    }
  }

  #does(work: Promise<void>): void {
    work.catch((error: unknown) => {
      this.#world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
    });
  }
}
