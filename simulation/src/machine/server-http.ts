/**
 * Stands in for the server's HTTP interface: the same operations on the same parts, over the world's network.
 *
 * Guarantees what the real one does: a credential for everything, a licensee sees its own only, rejections are answers and faults
 * `try-again`. Bodies, media types and status codes are the server's own tests.
 */
import { errorText } from '@countermark/node-platform/fault';
import { parseEnvelope } from '@countermark/protocol/cose';
import type { CeremonyId, CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import { MAX_SUBMISSION } from '@countermark/protocol/interfaces/answer';
import { type RotatedKey, parsePayload } from '@countermark/protocol/message';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { ACCOUNT } from '@countermark/server/ledger';
import type { HttpParts } from '@countermark/server/http';
import { type RecordPart, recordPart } from '@countermark/server/record-parts';
import type { Actor } from '@countermark/server/audit-trail';
import { Refusal } from '@countermark/server/refusal';
import { ProcessEnded } from '../process.ts';
import { machine, runningProcess } from './machine.ts';

type Parameters = Readonly<Record<string, unknown>>;
type Handler = (parameters: Parameters, caller: LicenseeId) => Promise<Result<unknown>>;

const host = (name: LicenseeId): Actor => ({ kind: 'host', name });
const unauthorised = refuse(rejection('unauthorised', {}));
/** What is nobody's to ask but an operator's. */
const OPERATORS_ONLY = new Set([
  'register-licensee',
  'deposit',
  'invite',
  'devices',
  'evidence',
  'withdraw',
  'close-device',
  'declare-dead',
  'confirm-dead',
  'order-key-ceremony',
  'confirm-key-ceremony',
]);

export async function httpInterface(parts: HttpParts): Promise<{
  listen(at: { readonly host: string; readonly port: number }): Promise<string>;
  close(): Promise<void>;
}> {
  const handlers = handlersOf(parts);
  return {
    listen: async ({ host, port }) => {
      const url = `http://${host}:${port}`;
      machine().network.serve(url, {
        process: runningProcess(),
        handle: async (operation, given) => {
          const parameters = given as Parameters;
          try {
            const { actor, licensee: caller } = await parts.callers.of(`Bearer ${String(parameters['credential'])}`);
            if (caller === null) return await operated(parts, operation, parameters, actor);
            if (OPERATORS_ONLY.has(operation)) return unauthorised;
            return await (handlers[operation] ?? (async () => refuse(rejection('unknown-operation', { operation }))))(
              parameters,
              caller,
            );
          } catch (error) {
            if (error instanceof ProcessEnded) throw error;
            if (error instanceof Refusal) return refuse(error.rejection);
            parts.logs.error('A request failed', error, { operation });
            return refuse(rejection('try-again', { reason: errorText(error).slice(0, 200) }));
          }
        },
      });
      return url;
    },
    close: async () => undefined,
  };
}

function handlersOf(parts: HttpParts): Readonly<Record<string, Handler>> {
  const { registry } = parts;
  /** For the licensee itself, or for one of its devices. */
  const own =
    (handle: (parameters: Parameters, licensee: LicenseeId) => Promise<Result<unknown>>): Handler =>
    async (parameters, caller) =>
      parameters['licensee'] === caller ? handle(parameters, caller) : unauthorised;
  const ofDevice =
    (handle: (device: DeviceId, licensee: LicenseeId, parameters: Parameters) => Promise<Result<unknown>>): Handler =>
    async (parameters, caller) => {
      const device = String(parameters['device']) as DeviceId;
      const licensee = await registry.deviceLicensee(device);
      if (licensee === null) return refuse(rejection('unknown-device', { device }));
      return licensee === caller ? handle(device, licensee, parameters) : unauthorised;
    };
  return {
    health: async () => accept(null),
    session: async () => {
      const reachable = machine().network.service(parts.cdSessionSocket) !== undefined;
      return reachable
        ? accept(parts.cdSessionSocket)
        : refuse(rejection('try-again', { reason: 'the cryptographic device does not answer' }));
    },
    enrol: own((parameters, licensee) =>
      parts.enrolment.enrol(
        licensee,
        { request: parameters['request'] as Uint8Array },
        host(licensee),
        parameters['code'] as string | undefined,
      ),
    ),
    identify: ofDevice((device, licensee, { request }) =>
      parts.enrolment.identify(device, licensee, request as Uint8Array),
    ),
    customers: own(async (parameters, licensee) => {
      const all = await registry.addCustomers(
        licensee,
        parameters['customers'] as CustomerId[],
        host(licensee),
        parts.nowMs(),
      );
      if (!all.ok) return all;
      for (const device of await registry.devicesOf(licensee)) {
        const renewed = await parts.policies.renewed(device, licensee, all.value);
        if (!renewed.ok) return renewed;
      }
      return accept({ customers: all.value });
    }),
    policy: ofDevice(async (device, licensee, { above }) =>
      parts.policies.renewed(device, licensee, await registry.customersOf(licensee), Number(above)),
    ),
    time: ofDevice((device) => parts.cryptographicDevice.signTime(device)),
    submit: async ({ records }) => {
      const given = records as readonly Uint8Array[];
      return given.length > MAX_SUBMISSION
        ? refuse(rejection('limit-exceeded', { what: 'records', value: given.length, limit: MAX_SUBMISSION }))
        : accept(await parts.acceptance.submit(given));
    },
    restore: async ({ items }) =>
      accept(await parts.acceptance.restore(items as Parameters0<typeof parts.acceptance.restore>)),
    attestation: ofDevice((device, _licensee, { sequence }) => stored(parts, device, Number(sequence), 'attestation')),
    'record-part': ofDevice((device, _licensee, { sequence, part }) =>
      stored(parts, device, Number(sequence), part as RecordPart),
    ),
    'restore-certificates': own(async ({ certificates }, licensee) =>
      parts.enrolment.restore(licensee, certificates as readonly Uint8Array[], host(licensee)),
    ),
    'restore-funds': async ({ grant }, caller) => {
      const bytes = grant as Uint8Array;
      const envelope = parseEnvelope(bytes);
      if (!envelope.ok) return envelope;
      const parsed = parsePayload(FUNDS_GRANT, envelope.value);
      if (!parsed.ok) return parsed;
      return parsed.value.licensee === caller ? parts.funds.restore(bytes) : unauthorised;
    },
    funds: async ({ request }, caller) => {
      const bytes = request as Uint8Array;
      const envelope = parseEnvelope(bytes);
      if (!envelope.ok) return envelope;
      const licensee = await registry.deviceLicensee(envelope.value.key.holder);
      return licensee !== null && licensee !== caller ? unauthorised : parts.funds.grant(bytes);
    },
    'deposit-balance': own(async (_parameters, licensee) =>
      accept(await parts.ledger.balance(ACCOUNT.deposit(licensee))),
    ),
    settlement: ofDevice(async (device, licensee) => {
      const state = await parts.settlement.of(device, licensee);
      return accept({
        ...state,
        grantsCursor: Number(state.grantsCursor),
        drawableMills: state.drawableMills.toString(),
      });
    }),
    grants: own(async ({ after }, licensee) => {
      const grants = await parts.grants.booked(licensee, BigInt(Number(after)), 200);
      return accept(grants.map(({ cursor, bytes }) => ({ cursor: Number(cursor), grant: bytes })));
    }),
    programmes: async () => {
      const programmes = await parts.authority.programmes();
      return programmes.ok ? accept(JSON.parse(programmes.value) as unknown) : programmes;
    },
  };
}

async function stored(
  parts: HttpParts,
  device: DeviceId,
  sequence: number,
  part: RecordPart,
): Promise<Result<Uint8Array>> {
  const found = await recordPart(parts, device, sequence, part);
  return found === null ? refuse(rejection('unknown-record', { sequence })) : accept(found.bytes);
}

/** What only the operators may ask; those of devices are `server/device-routes.ts`. */
async function operated(
  parts: HttpParts,
  operation: string,
  parameters: Parameters,
  operator: Actor,
): Promise<Result<unknown>> {
  const device = String(parameters['device']) as DeviceId;
  const reason = String(parameters['reason']);
  const licensee = String(parameters['licensee']) as LicenseeId;
  switch (operation) {
    case 'register-licensee':
      return accept(
        await parts.registry.addLicensee({ licensee, name: licensee, kind: 'bureau' }, operator, parts.nowMs()),
      );
    case 'deposit':
      return parts.deposits.payIn(licensee, parameters['amountMills'] as bigint, String(parameters['key']), operator);
    case 'invite':
      return parts.codes.issue(licensee, operator, 7);
    case 'restore-funds':
      return parts.funds.restore(parameters['grant'] as Uint8Array);
    case 'devices':
      return accept(await parts.deviceFiles.list('', 1_000));
    case 'evidence':
      return accept(await parts.deviceFiles.evidence(device));
    case 'withdraw':
      return parts.withdrawals.withdraw(device, reason, operator);
    case 'revoke-sessions':
      return parts.sessionRevocations.revoke(device, reason, operator);
    case 'close-device':
      return parts.closures.close(device, reason, operator);
    case 'declare-dead':
      return parts.deadDevices.declare(device, reason, operator);
    case 'order-key-ceremony':
      return accept(await parts.keyCeremonies.order(parameters['role'] as RotatedKey, reason, operator));
    case 'confirm-key-ceremony':
      return parts.keyCeremonies.confirm(parameters['ceremony'] as CeremonyId, operator);
    case 'confirm-dead':
      return parts.deadDevices.confirm(device, operator);
    default:
      return refuse(rejection('unknown-operation', { operation }));
  }
}

type Parameters0<F> = F extends (first: infer First, ...rest: never[]) => unknown ? First : never;
