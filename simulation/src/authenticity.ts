/**
 * What the cryptographic device lets out (invariant 4): attestations and confirmations for what a device sealed, and for nothing else;
 * funds for what a device asked for, once.
 *
 * Guarantees that every answer which leaves it is looked at, whoever asked: the honest server, or somebody at its socket.
 */
import type { CborValue } from '@countermark/protocol/cbor';
import { parseEnvelope } from '@countermark/protocol/cose';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { parsePayload } from '@countermark/protocol/message';
import { FUNDS_GRANT, FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import type { Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import type { Crossing } from './network.ts';
import { digestOfRecord, type Observation } from './observation.ts';
import { CD_SOCKET } from './parties.ts';
import type { World } from './world.ts';

const { authenticate, confirm, fund } = CRYPTOGRAPHIC_DEVICE;

export class Authenticity {
  readonly #world: World;
  readonly #seen: Observation;
  /** Amounts by device and number of the request. */
  readonly #granted = new Map<string, bigint>();

  constructor(world: World, seen: Observation) {
    this.#world = world;
    this.#seen = seen;
  }

  crossed({ address, operation, parameters, answer }: Crossing): void {
    if (address !== CD_SOCKET) return;
    const said = (answer as { readonly result?: Result<CborValue> }).result;
    if (said?.ok !== true) return;
    const given = parameters as CborValue;
    if (operation === authenticate.name) {
      const asked = parseValue(authenticate.request, given);
      const answered = parseValue(authenticate.answer, said.value);
      if (!asked.ok || !answered.ok) return;
      for (const [i, { attestation }] of answered.value.results.entries()) {
        if (attestation !== undefined) this.#authentic('attested', asked.value.records[i]);
      }
    }
    if (operation === confirm.name) {
      const asked = parseValue(confirm.request, given);
      const answered = parseValue(confirm.answer, said.value);
      if (!asked.ok || !answered.ok) return;
      for (const [i, { confirmation }] of answered.value.results.entries()) {
        if (confirmation !== undefined) this.#confirmed(asked.value.items[i]?.record);
      }
    }
    if (operation === fund.name) {
      const asked = parseValue(fund.request, given);
      const answered = parseValue(fund.answer, said.value);
      if (asked.ok && answered.ok) this.#funded(asked.value.request, answered.value.grant);
    }
  }

  #authentic(what: string, record: Uint8Array | undefined): string {
    const name = record === undefined ? null : digestOfRecord(record);
    const made = name !== null && (this.#seen.sealed.has(name) || this.#seen.madeWithStolenKeys.has(name));
    if (!made) this.#world.violated('authenticity', `${what} what no device made: ${name ?? 'no record'}`);
    return name ?? '';
  }

  /** The device takes the server's word that a record is logged; an honest one gives it only where it is. */
  #confirmed(record: Uint8Array | undefined): void {
    const name = this.#authentic('confirmed', record);
    if (this.#seen.logged.has(name) || this.#seen.confirmedByALie.has(name)) return;
    this.#world.violated('authenticity', `confirmed, and never in the log: ${name.slice(0, 12)}`);
  }

  #funded(request: Uint8Array, grant: Uint8Array): void {
    const [asked, granted] = [parseEnvelope(request), parseEnvelope(grant)];
    if (!asked.ok || !granted.ok) return;
    const wish = parsePayload(FUNDS_REQUEST, asked.value);
    const funds = parsePayload(FUNDS_GRANT, granted.value);
    if (!wish.ok || !funds.ok) return;
    const { device, number, amountMills, draws } = funds.value;
    const violated = (what: string): void => {
      this.#world.violated('authenticity', `funds request ${number} of ${device}: ${what}`);
    };
    if (device !== wish.value.device || number !== wish.value.number) violated('the grant is for another');
    const drawnMills = draws.reduce((sum, draw) => sum + draw.amountMills, 0n);
    if (amountMills - drawnMills > wish.value.amountMills) violated(`${amountMills} for ${wish.value.amountMills}`);
    const name = `${device} ${number}`;
    const before = this.#granted.get(name);
    if (before !== undefined && before !== amountMills) violated(`${before} were granted, now ${amountMills}`);
    this.#granted.set(name, amountMills);
  }
}
