/**
 * The operators' routes about devices: list, file, evidence, withdrawal, revocation of session keys, and the two steps of a declaration of death.
 *
 * Guarantees that what is done bears the name of the credential with which it was asked. Who is heard: `authorisation.ts`.
 */
import { type DeviceId, DEVICE_ID } from '@countermark/protocol/id';
import { digestText } from '@countermark/protocol/digest';
import type { Currency } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import type { Closure, Closures } from './closures.ts';
import type { DeadDevices, Death } from './dead-devices.ts';
import type { DeviceFiles, Exhibit } from './device-file.ts';
import { Refusal, taken } from './refusal.ts';
import type { Registry } from './registry.ts';
import type { DeviceSettings } from './device-settings.ts';
import type { Caller } from './role.ts';
import type { SessionRevocations } from './session-revocations.ts';
import type { Withdrawals } from './withdrawals.ts';

export type DeviceRouteParts = {
  readonly registry: Registry;
  readonly deviceFiles: DeviceFiles;
  readonly withdrawals: Withdrawals;
  readonly deadDevices: DeadDevices;
  readonly deviceSettings: DeviceSettings;
  readonly closures: Closures;
  readonly sessionRevocations: SessionRevocations;
  readonly currency: Currency;
  readonly callerOf: (request: FastifyRequest) => Caller;
};

const Device = Type.String({ pattern: DEVICE_ID.source, description: 'A device: psd_ and 16 hex digits' });
const DeviceParams = Type.Object({ device: Device });
const SignedAmount = Type.String({ pattern: '^-?[0-9]{1,19}$', description: 'Mills, as a text' });
const Base64Url = Type.String({ pattern: '^[A-Za-z0-9_-]+$' });
const Count = Type.Integer({ minimum: 0 });
const Time = Type.Integer({ minimum: 0, description: 'Milliseconds since 1970, UTC' });
const nullable = <T extends Parameters<typeof Type.Union>[0][number]>(type: T) => Type.Union([type, Type.Null()]);
const strict = { additionalProperties: false } as const;

const StandingSchema = Type.Union(
  ['good', 'suspended', 'withdrawn', 'dead', 'closing', 'closed'].map((standing) => Type.Literal(standing)),
  {
    description:
      'suspended: by a fork; withdrawn: for good; dead: withdrawn, as two operators say; closing, closed: on its owner’s wish',
  },
);
const ListQuery = Type.Object(
  {
    after: Type.Optional(Device),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000 })),
    standing: Type.Optional(StandingSchema),
  },
  strict,
);
const ReasonBody = Type.Object(
  { reason: Type.String({ minLength: 1, maxLength: 100, pattern: '^[^\\p{Cc}]*$' }) },
  strict,
);
const NothingBody = Type.Object({}, strict);
const ProfileBody = Type.Object(
  { profile: Type.String({ minLength: 1, maxLength: 32, description: 'standard, 72h, 21+7, 90+30' }) },
  strict,
);
const SettingAnswer = Type.Object({
  profile: Type.String({ description: 'Empty: the standard of the server' }),
  inspectedAtMs: nullable(Time),
  policySigned: Type.Boolean({ description: 'false: it is signed when the host of the device asks' }),
});
const line = {
  device: Type.String(),
  licensee: Type.String(),
  standing: Type.String(),
  reason: Type.String(),
  sequence: Count,
  evidence: Count,
  balanceMills: SignedAmount,
};
const AfterSequence = Type.Integer({ minimum: 0, description: 'The last record that stands; later ones earn nothing' });
const CurrencyAnswer = Type.Object({ code: Type.String(), exponent: Count });
const ListAnswer = Type.Object({ currency: CurrencyAnswer, devices: Type.Array(Type.Object(line)) });
const DeathAnswer = Type.Object({
  reason: Type.String(),
  declaredBy: Type.String(),
  declaredAtMs: Time,
  confirmedBy: nullable(Type.String()),
  confirmedAtMs: nullable(Time),
  refundAfterMs: nullable(Time),
  settled: Type.String({ description: 'open, refunded, or withheld where a fork is known' }),
  refundedMills: nullable(SignedAmount),
});
const ClosureAnswer = Type.Object({
  reason: Type.String(),
  operator: Type.String(),
  atMs: Time,
  sequence: nullable(Count),
  returnedMills: nullable(SignedAmount),
  settled: Type.String({ description: 'open, refunded, or withheld where a fork is known' }),
});
const FileAnswer = Type.Object({
  ...line,
  currency: CurrencyAnswer,
  suspendedAfter: nullable(AfterSequence),
  head: Type.Object({
    digest: Type.String(),
    epoch: Count,
    ascendingMills: SignedAmount,
    descendingMills: SignedAmount,
    pieces: Count,
    receivedMills: SignedAmount,
    returnedMills: SignedAmount,
  }),
  death: nullable(DeathAnswer),
  closure: nullable(ClosureAnswer),
  profile: Type.String(),
  inspectedAtMs: nullable(Time),
  policyVersion: Count,
  acts: Type.Array(Type.Object({ act: Type.String(), operator: Type.String(), words: Type.String(), atMs: Time })),
});
const ExhibitAnswer = Type.Object({
  sequence: Count,
  digest: Type.String(),
  record: Base64Url,
  attestation: Base64Url,
  certificate: nullable(Base64Url),
  atMs: Time,
});
const EvidenceAnswer = Type.Object({
  cases: Type.Array(Type.Object({ code: Type.String(), refused: ExhibitAnswer, accepted: nullable(ExhibitAnswer) })),
});
const WithdrawalAnswer = Type.Object({
  reason: Type.String(),
  suspension: nullable(Base64Url),
  afterSequence: AfterSequence,
});

const SessionRevocationAnswer = Type.Object({
  epoch: Type.Integer({ minimum: 1, description: 'Of the last key that was revoked' }),
  reason: Type.String(),
});

/** Adds the routes. */
export function deviceRoutes(app: FastifyInstance, parts: DeviceRouteParts): void {
  const {
    registry,
    deviceFiles,
    withdrawals,
    deadDevices,
    deviceSettings,
    closures,
    sessionRevocations,
    currency,
    callerOf,
  } = parts;
  const known = async (request: FastifyRequest) => {
    const { device } = request.params as Static<typeof DeviceParams>;
    const licensee = await registry.deviceLicensee(device);
    if (licensee === null) throw new Refusal(rejection('unknown-device', { device }));
    return { device: device as DeviceId, licensee };
  };
  const describe = (summary: string, answer: object, rest: object = {}) => ({
    schema: { summary, response: { 200: answer }, ...rest },
  });
  const of = { params: DeviceParams };

  app.get(
    '/v1/devices',
    describe('The enrolled devices by id, with their standing', ListAnswer, { querystring: ListQuery }),
    async (request) => {
      const { after = '', limit = 200, standing } = request.query as Static<typeof ListQuery>;
      const devices = await deviceFiles.list(after, limit, standing);
      return { currency, devices: devices.map((one) => ({ ...one, balanceMills: one.balanceMills.toString() })) };
    },
  );

  app.get(
    '/v1/devices/:device',
    describe('All about one device: chain, balance, declarations, acts', FileAnswer, of),
    async (request) => {
      const { device, licensee } = await known(request);
      const { head, death, closure, balanceMills, ...file } = await deviceFiles.of(device, licensee);
      return {
        ...file,
        currency,
        balanceMills: balanceMills.toString(),
        suspendedAfter: head.suspended ? head.suspendedAfter : null,
        head: {
          digest: digestText(head.digest),
          epoch: head.epoch,
          ascendingMills: head.registers.ascendingMills.toString(),
          descendingMills: head.registers.descendingMills.toString(),
          pieces: head.registers.pieces,
          receivedMills: head.funds.receivedMills.toString(),
          returnedMills: head.funds.returnedMills.toString(),
        },
        death: death === null ? null : deathJson(death),
        closure: closure === null ? null : closureJson(closure),
      };
    },
  );

  app.get(
    '/v1/devices/:device/evidence',
    describe('Records that were authentic and not accepted, each beside the accepted one', EvidenceAnswer, of),
    async (request) => {
      const { device } = await known(request);
      return {
        cases: (await deviceFiles.evidence(device)).map(({ code, refused, accepted }) => ({
          code,
          refused: exhibitJson(refused),
          accepted: accepted === null ? null : exhibitJson(accepted),
        })),
      };
    },
  );

  app.post(
    '/v1/devices/:device/withdrawal',
    describe('Withdraws the device for good; again, it changes nothing', WithdrawalAnswer, { ...of, body: ReasonBody }),
    async (request) => {
      const { device } = await known(request);
      const { reason } = request.body as Static<typeof ReasonBody>;
      const { suspension, ...withdrawal } = taken(await withdrawals.withdraw(device, reason, callerOf(request).actor));
      return { ...withdrawal, suspension: suspension === null ? null : base64url(suspension) };
    },
  );

  app.post(
    '/v1/devices/:device/session-revocation',
    describe(
      'Revokes the session keys of the device: it has sessions again with its next key epoch, and reports without one until then',
      SessionRevocationAnswer,
      { ...of, body: ReasonBody },
    ),
    async (request) => {
      const { device } = await known(request);
      const { reason } = request.body as Static<typeof ReasonBody>;
      return taken(await sessionRevocations.revoke(device, reason, callerOf(request).actor));
    },
  );

  app.post(
    '/v1/devices/:device/closure',
    describe(
      'Closes the device on its owner’s wish: it makes its final statement, and its balance goes back; again, it changes nothing',
      ClosureAnswer,
      { ...of, body: ReasonBody },
    ),
    async (request) => {
      const { device } = await known(request);
      const { reason } = request.body as Static<typeof ReasonBody>;
      return closureJson(taken(await closures.close(device, reason, callerOf(request).actor)));
    },
  );

  app.post(
    '/v1/devices/:device/profile',
    describe('Chooses the reporting deadlines of the device: it takes them with its next policy', SettingAnswer, {
      ...of,
      body: ProfileBody,
    }),
    async (request) => {
      const { device } = await known(request);
      const { profile } = request.body as Static<typeof ProfileBody>;
      return taken(await deviceSettings.choose(device, profile, callerOf(request).actor));
    },
  );

  app.post(
    '/v1/devices/:device/inspection',
    describe('Notes that the device was inspected now: its next policy names the date', SettingAnswer, {
      ...of,
      body: ReasonBody,
    }),
    async (request) => {
      const { device } = await known(request);
      const { reason } = request.body as Static<typeof ReasonBody>;
      return taken(await deviceSettings.inspected(device, reason, callerOf(request).actor));
    },
  );

  app.post(
    '/v1/devices/:device/death',
    describe('Declares the device dead; without effect before another operator confirms it', DeathAnswer, {
      ...of,
      body: ReasonBody,
    }),
    async (request) => {
      const { device } = await known(request);
      const { reason } = request.body as Static<typeof ReasonBody>;
      return deathJson(taken(await deadDevices.declare(device, reason, callerOf(request).actor)));
    },
  );

  app.post(
    '/v1/devices/:device/death/confirmation',
    describe(
      "Confirms another operator's declaration: the device is withdrawn, its balance refunded later",
      DeathAnswer,
      {
        ...of,
        body: NothingBody,
      },
    ),
    async (request) => {
      const { device } = await known(request);
      return deathJson(taken(await deadDevices.confirm(device, callerOf(request).actor)));
    },
  );
}

function deathJson(death: Death): Static<typeof DeathAnswer> {
  return { ...death, refundedMills: death.refundedMills?.toString() ?? null };
}

function closureJson(closure: Closure): Static<typeof ClosureAnswer> {
  return { ...closure, returnedMills: closure.returnedMills?.toString() ?? null };
}

function exhibitJson(exhibit: Exhibit): Static<typeof ExhibitAnswer> {
  const { sequence, digest, record, attestation, certificate, atMs } = exhibit;
  return {
    sequence,
    digest: digestText(digest),
    record: base64url(record),
    attestation: base64url(attestation),
    certificate: certificate === null ? null : base64url(certificate),
    atMs,
  };
}

function base64url(value: Uint8Array): string {
  return Buffer.from(value).toString('base64url');
}
