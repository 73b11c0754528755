/**
 * The server's HTTP interface (OpenAPI 3.1 at `/openapi.json`).
 *
 * Guarantees: who may ask what is `authorisation.ts`, seen to before a body is read; whoever is of a licensee or a customer gets that
 * one's data only; bodies are bounded, of exactly the media type that the route names, and validated before a handler sees them;
 * amounts are texts; every error is problem+json with a code of the catalogue. Acceptance takes a bounded number of submissions
 * at once and answers `try-again` beyond.
 * TLS 1.3 where a certificate is given; that nothing else leaves the machine is the configuration's (`config.ts`).
 */
import { randomBytes } from 'node:crypto';
import type { Log } from '@countermark/node-platform/logs';
import type { TlsMaterial } from '@countermark/node-platform/transport-security';
import { dropUnread } from '@countermark/node-platform/unread-body';
import { parseEnvelope } from '@countermark/protocol/cose';
import { type CustomerId, type DeviceId, DEVICE_ID, type LicenseeId, LICENSEE_ID } from '@countermark/protocol/id';
import { archivedCertificatesSchema } from '@countermark/protocol/interfaces/archived-certificates';
import { answersSchema, MAX_RECORD_BYTES, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { parsePayload } from '@countermark/protocol/message';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import type { Currency } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { bytes, encodeWith, field, list, type Of, parseBytes, struct } from '@countermark/protocol/schema';
import type { SqlDatabase } from '@countermark/sql/database';
import swagger from '@fastify/swagger';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import type { Acceptance } from './acceptance.ts';
import type { AuthorityClient } from './authority-client.ts';
import { BY_ITSELF, recordAct } from './audit-trail.ts';
import { guardRoutes, mayAsk, SESSION_ROUTE } from './authorisation.ts';
import type { Callers } from './callers.ts';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import type { DeadDevices } from './dead-devices.ts';
import type { Closures } from './closures.ts';
import type { DeviceSettings } from './device-settings.ts';
import type { Deposits, Moved } from './deposits.ts';
import type { DeviceFiles } from './device-file.ts';
import { deviceRoutes } from './device-routes.ts';
import type { EnrolmentCodes } from './enrolment-codes.ts';
import type { Enrolment } from './enrolment.ts';
import type { Funds } from './funds.ts';
import type { GrantIntake } from './grant-intake.ts';
import type { KeyCeremonies } from './key-ceremonies.ts';
import { keyRoutes } from './key-routes.ts';
import type { Ledger } from './ledger.ts';
import type { People } from './people.ts';
import { peopleRoutes } from './people-routes.ts';
import type { Policies } from './policies.ts';
import { type Defect, PROBLEM_TYPE, problemOf } from './problem.ts';
import type { Limits } from './limits.ts';
import { RateLimits } from './rate-limits.ts';
import { Refusal, taken } from './refusal.ts';
import { RECORD_PARTS, type RecordPart, recordPart } from './record-parts.ts';
import type { Registry } from './registry.ts';
import type { Caller } from './role.ts';
import { serveSessionUpgrades } from './session-upgrade.ts';
import type { SessionRevocations } from './session-revocations.ts';
import type { Settlement } from './settlement.ts';
import type { Spoiled, SpoiledPostage } from './spoiled-postage.ts';
import type { StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';
import type { Withdrawals } from './withdrawals.ts';

const CBOR = 'application/cbor';
const JSON_BODY_BYTES = 512 * 1024;
const CBOR_BODY_BYTES = 4 * 1024 * 1024;
const SUBMISSIONS_AT_ONCE = 32;
/** How long an enrolment code is good where nothing else is said. */
const CODE_DAYS = 7;
const CBOR_LIMITS = { maxBytes: CBOR_BODY_BYTES, maxDepth: 12 };

/** Archived records, each with what was answered: fed to a server that was restored from an older backup. */
const archiveSchema = struct('archive', {
  items: field(
    1,
    list(
      struct('archive-item', {
        record: field(1, bytes(1, MAX_RECORD_BYTES)),
        attestation: field(2, bytes(1, 4_096)),
        confirmation: field(3, bytes(1, 4_096)),
      }),
      256,
      1,
    ),
  ),
});

const Licensee = Type.String({ pattern: LICENSEE_ID.source, description: 'A licensee: lic_...' });
const Device = Type.String({ pattern: DEVICE_ID.source, description: 'A device: psd_ and 16 hex digits' });
const Customer = Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,31}$' });
const Amount = Type.String({ pattern: '^[0-9]{1,18}$', description: 'Mills, as a text' });
const SignedAmount = Type.String({ pattern: '^-?[0-9]{1,19}$', description: 'Mills, as a text' });
const Base64Url = Type.String({ pattern: '^[A-Za-z0-9_-]+$' });
const Cursor = Type.String({ pattern: '^[0-9]{1,18}$' });
const Count = Type.Integer({ minimum: 0 });
const strict = { additionalProperties: false } as const;

const LicenseeBody = Type.Object(
  {
    licensee: Licensee,
    name: Type.String({ minLength: 1, maxLength: 100 }),
    kind: Type.Union([Type.Literal('mailer'), Type.Literal('bureau')]),
  },
  strict,
);
const DepositBody = Type.Object({ amountMills: Amount }, strict);
const CustomersBody = Type.Object({ customers: Type.Array(Customer, { maxItems: 4_096 }) }, strict);
const DeviceBody = Type.Object(
  {
    licensee: Licensee,
    request: Base64Url,
    certificateRequest: Type.Optional(Base64Url),
    code: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
  },
  strict,
);
const RequestBody = Type.Object({ request: Base64Url }, strict);
const CodeBody = Type.Object({ days: Type.Optional(Type.Integer({ minimum: 1, maximum: 90 })) }, strict);
const CodeParams = Type.Object({ licensee: Licensee, id: Type.String({ pattern: '^[0-9a-f]{16}$' }) });
const NothingBody = Type.Object({}, strict);
const codeFields = {
  id: Type.String(),
  issuedBy: Type.String(),
  issuedAtMs: Count,
  endsAtMs: Count,
  state: Type.String({ description: 'open, used, revoked, or ended' }),
  device: Type.Union([Type.String(), Type.Null()]),
  revokedBy: Type.Union([Type.String(), Type.Null()]),
};
const LicenseeParams = Type.Object({ licensee: Licensee });
const DeviceParams = Type.Object({ device: Device });
const RecordParams = Type.Object({ device: Device, sequence: Type.Integer({ minimum: 1, maximum: 0xffff_ffff }) });
const PageQuery = Type.Object(
  { after: Type.Optional(Cursor), limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000 })) },
  strict,
);
const LimitQuery = Type.Object({ limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000 })) }, strict);
const AboveQuery = Type.Object({ above: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff })) }, strict);
const IdempotencyHeaders = Type.Object({ 'idempotency-key': Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$' }) });
const Binary = Type.Unsafe<Buffer>({ type: 'string', format: 'binary' });

const LineSchema = Type.Object({ account: Type.String(), amountMills: SignedAmount });
const EntriesAnswer = Type.Object({
  entries: Type.Array(
    Type.Object({
      number: Cursor,
      ref: Type.String(),
      kind: Type.String(),
      note: Type.String(),
      atMs: Count,
      lines: Type.Array(LineSchema),
    }),
  ),
});
const GrantsAnswer = Type.Object({
  grants: Type.Array(
    Type.Object({
      cursor: Cursor,
      digest: Type.String(),
      kind: Type.String(),
      customer: Type.Optional(Type.String()),
      grant: Base64Url,
      bookedAtMs: Count,
    }),
  ),
  cursor: Cursor,
});
const ReasonBody = Type.Object(
  { reason: Type.String({ minLength: 1, maxLength: 100, pattern: '^[^\\p{Cc}]*$' }) },
  strict,
);
const spoiledFields = {
  device: Type.String(),
  sequence: Count,
  customer: Type.Union([Type.String(), Type.Null()]),
  amountMills: Amount,
  refundAfterMs: Count,
  settled: Type.String({ description: 'waiting, refunded, or withheld' }),
  settledAtMs: Type.Union([Count, Type.Null()]),
  reason: Type.String(),
};
const SpoiledAnswer = Type.Object({
  currency: Type.Object({ code: Type.String(), exponent: Count }),
  spoiled: Type.Array(Type.Object(spoiledFields)),
});
const SettlementAnswer = Type.Object({
  logged: Count,
  booked: Count,
  delivered: Count,
  evaluated: Count,
  grantsCursor: Cursor,
  drawableMills: Amount,
  suspended: Type.Boolean(),
  reason: Type.String(),
  policyVersion: Count,
  policyDigest: Type.String({ description: 'Of that policy; empty for none' }),
});

export type HttpParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly callers: Callers;
  readonly people: People;
  readonly acceptance: Acceptance;
  readonly authority: AuthorityClient;
  readonly cryptographicDevice: CryptographicDevice;
  readonly enrolment: Enrolment;
  readonly codes: EnrolmentCodes;
  readonly funds: Funds;
  readonly grants: GrantIntake;
  readonly ledger: Ledger;
  readonly deposits: Deposits;
  readonly spoiledPostage: SpoiledPostage;
  readonly log: StatisticsLog;
  readonly policies: Policies;
  readonly registry: Registry;
  readonly settlement: Settlement;
  readonly keyCeremonies: KeyCeremonies;
  readonly deviceFiles: DeviceFiles;
  readonly withdrawals: Withdrawals;
  readonly deadDevices: DeadDevices;
  readonly deviceSettings: DeviceSettings;
  readonly closures: Closures;
  readonly sessionRevocations: SessionRevocations;
  readonly currency: Currency;
  readonly rateLimits: Limits;
  /** Null where it speaks plain HTTP: on this machine, or behind what ends TLS. */
  readonly tls: TlsMaterial | null;
  readonly cdSessionSocket: string;
  readonly nowMs: () => number;
  readonly logs: Log;
};

/** The HTTP interface, not listening yet. */
export async function httpInterface(parts: HttpParts): Promise<FastifyInstance> {
  const { registry, log, ledger, logs } = parts;
  // Null is plain HTTP.
  const app: FastifyInstance = fastify({
    https: parts.tls,
    bodyLimit: JSON_BODY_BYTES,
    requestTimeout: 60_000,
    keepAliveTimeout: 75_000,
    genReqId: requestId,
    requestIdHeader: false,
    forceCloseConnections: true,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: 'array', allErrors: true } },
    routerOptions: { maxParamLength: 128 },
    // What the router refuses before any route is known: a path that is no URL.
    frameworkErrors: (error, request, reply) => {
      answerError(error, request, reply, logs);
    },
  });
  const limits = await RateLimits.of(app, parts.rateLimits, async (kind, which) => {
    logs.warn('Credentials were refused too often', kind === 'address' ? { address: which } : { reason: which });
    const words = `more than allowed in a minute, by ${kind}`;
    const act = { act: 'credentials-refused' as const, by: BY_ITSELF, subject: which, words, atMs: parts.nowMs() };
    await parts.database.transaction((tables) => recordAct(tables, act));
  });
  const callerAt = async (authorization: string | undefined, address: string, route: string): Promise<Caller> => {
    const caller = await parts.callers.of(authorization, {
      beforeVerifying: (name) => limits.beforeVerifying(address, name),
      refused: (name) => limits.refused(address, name),
    });
    await limits.asked(caller, route);
    return caller;
  };
  const callerOf = guardRoutes(app, (request, route) => callerAt(request.headers.authorization, request.ip, route));
  const own = (request: FastifyRequest, licensee: LicenseeId): Caller => {
    const caller = callerOf(request);
    if (caller.licensee !== null && caller.licensee !== licensee) throw new Refusal(rejection('unauthorised', {}));
    return caller;
  };
  const ownLicensee = async (
    request: FastifyRequest,
  ): Promise<{ licensee: LicenseeId; customer: CustomerId | null }> => {
    const { licensee } = request.params as Static<typeof LicenseeParams>;
    const { customer } = own(request, licensee as LicenseeId);
    if ((await registry.licensee(licensee)) === null) throw new Refusal(rejection('unknown-licensee', { licensee }));
    return { licensee: licensee as LicenseeId, customer };
  };
  const ownDevice = async (
    request: FastifyRequest,
  ): Promise<{ device: DeviceId; licensee: LicenseeId; customer: CustomerId | null }> => {
    const { device } = request.params as Static<typeof DeviceParams>;
    const licensee = await registry.deviceLicensee(device);
    if (licensee === null) throw new Refusal(rejection('unknown-device', { device }));
    const { customer } = own(request, licensee);
    return { device: device as DeviceId, licensee, customer };
  };

  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => {
    try {
      done(null, JSON.parse(body.toString()));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      done(new Refusal(rejection('malformed', { path: 'body', reason: reason.slice(0, 200) })));
    }
  });
  app.addContentTypeParser(CBOR, { parseAs: 'buffer', bodyLimit: CBOR_BODY_BYTES }, (_request, body, done) => {
    done(null, body);
  });
  app.setErrorHandler(async (error, request, reply) => {
    await dropUnread(request.raw);
    answerError(error, request, reply, logs);
    return reply;
  });
  app.setNotFoundHandler((request, reply) => {
    refuseWith(
      reply,
      request,
      rejection('unknown-operation', { operation: `${request.method} ${request.url}`.slice(0, 100) }),
    );
  });
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Countermark server',
        version: '1',
        description: 'Amounts are texts of mills; errors are problem+json with a code of docs/errors.md.',
      },
      components: { securitySchemes: { credential: { type: 'http', scheme: 'bearer' } } },
      security: [{ credential: [] }],
    },
  });
  const describe = (summary: string, rest: object = {}) => ({ schema: { summary, ...rest } });
  const cbor = { consumes: [CBOR], produces: [CBOR] };
  const produced = { produces: [CBOR], response: { 200: Binary } };

  // Swagger sees routes that are registered after it.
  app.after(() => {
    app.get('/health', describe('Whether the server answers'), async () => ({ status: 'ok' }));
    app.get('/openapi.json', describe('This description'), async () => app.swagger());
    keyRoutes(app, { keyCeremonies: parts.keyCeremonies, callerOf });

    app.post(
      '/v1/licensees',
      {
        ...describe('Registers a licensee and issues a credential for its hosts', { body: LicenseeBody }),
      },
      async (request, reply) => {
        const body = request.body as Static<typeof LicenseeBody>;
        const known = await registry.licensee(body.licensee);
        const credential = await registry.addLicensee(
          { ...body, licensee: body.licensee as LicenseeId },
          callerOf(request).actor,
          parts.nowMs(),
        );
        return reply.code(known === null ? 201 : 200).send({ licensee: body.licensee, credential });
      },
    );

    app.post(
      '/v1/licensees/:licensee/deposits',
      {
        ...describe('Pays into the deposit, once for each Idempotency-Key', {
          params: LicenseeParams,
          body: DepositBody,
          headers: IdempotencyHeaders,
        }),
      },
      async (request, reply) => {
        const { licensee } = await ownLicensee(request);
        const amountMills = BigInt((request.body as Static<typeof DepositBody>).amountMills);
        const key = (request.headers as Static<typeof IdempotencyHeaders>)['idempotency-key'];
        return sendMoved(reply, taken(await parts.deposits.payIn(licensee, amountMills, key, callerOf(request).actor)));
      },
    );

    app.post(
      '/v1/licensees/:licensee/payouts',
      {
        ...describe('Pays out of the deposit, once for each Idempotency-Key, never more than it holds', {
          params: LicenseeParams,
          body: DepositBody,
          headers: IdempotencyHeaders,
        }),
      },
      async (request, reply) => {
        const { licensee } = await ownLicensee(request);
        const amountMills = BigInt((request.body as Static<typeof DepositBody>).amountMills);
        const key = (request.headers as Static<typeof IdempotencyHeaders>)['idempotency-key'];
        return sendMoved(
          reply,
          taken(await parts.deposits.payOut(licensee, amountMills, key, callerOf(request).actor)),
        );
      },
    );

    app.get(
      '/v1/licensees/:licensee/spoiled-postage',
      {
        ...describe('Postage of spoiled pieces, newest first: when it comes back to the deposit, or that it does not', {
          params: LicenseeParams,
          querystring: LimitQuery,
          response: { 200: SpoiledAnswer },
        }),
      },
      async (request) => {
        const { licensee } = await ownLicensee(request);
        const { limit = 200 } = request.query as Static<typeof LimitQuery>;
        const spoiled = await parts.spoiledPostage.of(licensee, limit);
        return { currency: parts.currency, spoiled: spoiled.map(spoiledAnswer) };
      },
    );

    app.post(
      '/v1/devices/:device/records/:sequence/spoiled-postage/withholding',
      {
        ...describe('Withholds the spoiled postage of a record for good, as long as it is not paid back', {
          params: RecordParams,
          body: ReasonBody,
          response: { 200: Type.Object(spoiledFields) },
        }),
      },
      async (request) => {
        const { device } = await ownDevice(request);
        const { sequence } = request.params as Static<typeof RecordParams>;
        const { reason } = request.body as Static<typeof ReasonBody>;
        return spoiledAnswer(
          taken(await parts.spoiledPostage.withhold(device, sequence, reason, callerOf(request).actor)),
        );
      },
    );

    app.post(
      '/v1/licensees/:licensee/customers',
      {
        ...describe('Registers customers; the policies of the devices are signed anew', {
          params: LicenseeParams,
          body: CustomersBody,
        }),
      },
      async (request) => {
        const { licensee } = await ownLicensee(request);
        const { customers } = request.body as Static<typeof CustomersBody>;
        const all = taken(
          await registry.addCustomers(licensee, customers as CustomerId[], callerOf(request).actor, parts.nowMs()),
        );
        for (const device of await registry.devicesOf(licensee))
          taken(await parts.policies.renewed(device, licensee, all));
        return { customers: all };
      },
    );

    app.get(
      '/v1/licensees/:licensee/accounts',
      {
        ...describe('The balances of all accounts', {
          params: LicenseeParams,
          response: {
            200: Type.Object({
              accounts: Type.Array(Type.Object({ account: Type.String(), balanceMills: SignedAmount })),
            }),
          },
        }),
      },
      async (request) => {
        const { licensee, customer } = await ownLicensee(request);
        const accounts = await ledger.accounts(licensee, await registry.devicesOf(licensee), customer);
        return {
          accounts: accounts.map(({ account, balanceMills }) => ({ account, balanceMills: balanceMills.toString() })),
        };
      },
    );

    app.get(
      '/v1/licensees/:licensee/entries',
      {
        ...describe('Ledger entries, oldest first', {
          params: LicenseeParams,
          querystring: PageQuery,
          response: { 200: EntriesAnswer },
        }),
      },
      async (request) => {
        const { licensee, customer } = await ownLicensee(request);
        const { after = '0', limit = 200 } = request.query as Static<typeof PageQuery>;
        const devices = await registry.devicesOf(licensee);
        const entries = await ledger.entries(licensee, devices, BigInt(after), limit, customer);
        return {
          entries: entries.map((entry) => ({
            ...entry,
            number: entry.number.toString(),
            lines: entry.lines.map(({ account, amountMills }) => ({ account, amountMills: amountMills.toString() })),
          })),
        };
      },
    );

    app.get(
      '/v1/licensees/:licensee/grants',
      {
        ...describe('Booked grants of the postal authority, oldest first', {
          params: LicenseeParams,
          querystring: PageQuery,
          response: { 200: GrantsAnswer },
        }),
      },
      async (request) => {
        const { licensee, customer } = await ownLicensee(request);
        const { after = '0', limit = 200 } = request.query as Static<typeof PageQuery>;
        const grants = await parts.grants.booked(licensee, BigInt(after), limit, customer);
        return {
          grants: grants.map((grant) => ({
            cursor: grant.cursor.toString(),
            digest: Buffer.from(grant.digest).toString('hex'),
            kind: grant.kind,
            ...(grant.customer === '' ? {} : { customer: grant.customer }),
            grant: Buffer.from(grant.bytes).toString('base64url'),
            bookedAtMs: grant.bookedAtMs,
          })),
          cursor: (grants.at(-1)?.cursor ?? BigInt(after)).toString(),
        };
      },
    );

    app.post(
      '/v1/licensees/:licensee/enrolment-codes',
      {
        ...describe('Issues a code with which the licensee enrols one new device; it is said once', {
          params: LicenseeParams,
          body: CodeBody,
          response: { 201: Type.Object({ ...codeFields, code: Type.String() }) },
        }),
      },
      async (request, reply) => {
        const { licensee } = await ownLicensee(request);
        const { days = CODE_DAYS } = request.body as Static<typeof CodeBody>;
        return reply.code(201).send(taken(await parts.codes.issue(licensee, callerOf(request).actor, days)));
      },
    );

    app.get(
      '/v1/licensees/:licensee/enrolment-codes',
      {
        ...describe('Enrolment codes of the licensee, newest first, without the codes themselves', {
          params: LicenseeParams,
          response: { 200: Type.Object({ codes: Type.Array(Type.Object(codeFields)) }) },
        }),
      },
      async (request) => {
        const { licensee } = await ownLicensee(request);
        return { codes: await parts.codes.of(licensee) };
      },
    );

    app.post(
      '/v1/licensees/:licensee/enrolment-codes/:id/revocation',
      {
        ...describe('Revokes an enrolment code that is not used', {
          params: CodeParams,
          body: NothingBody,
          response: { 200: Type.Object(codeFields) },
        }),
      },
      async (request) => {
        const { licensee } = await ownLicensee(request);
        const { id } = request.params as Static<typeof CodeParams>;
        return taken(await parts.codes.revoke(licensee, id, callerOf(request).actor));
      },
    );

    app.post(
      '/v1/devices',
      {
        ...describe(
          'Enrols a device by its own signed request, a new one with an enrolment code; the same request gets the same certificate',
          {
            body: DeviceBody,
            response: {
              201: Type.Object({
                certificate: Base64Url,
                policy: Base64Url,
                identityCertificate: Type.Optional(Base64Url),
              }),
            },
          },
        ),
      },
      async (request, reply) => {
        const body = request.body as Static<typeof DeviceBody>;
        const licensee = body.licensee as LicenseeId;
        own(request, licensee);
        const requests = {
          request: fromBase64url(body.request),
          ...(body.certificateRequest === undefined
            ? {}
            : { certificateRequest: fromBase64url(body.certificateRequest) }),
        };
        const { actor } = callerOf(request);
        const enrolled = taken(await parts.enrolment.enrol(licensee, requests, actor, body.code));
        return reply
          .code(201)
          .send(Object.fromEntries(Object.entries(enrolled).map(([name, given]) => [name, base64url(given)])));
      },
    );

    app.post(
      '/v1/devices/:device/identity-certificate',
      {
        ...describe(
          "An X.509 certificate (DER) of the device's signature key, by a PKCS#10 request that this key signed; it names the products of its policy",
          {
            params: DeviceParams,
            body: RequestBody,
            response: {
              201: Type.Object({
                certificate: Base64Url,
                authority: Base64Url,
                chain: Type.Array(Base64Url, {
                  description: 'From the authority to those before it, each certified by the one before it',
                }),
              }),
            },
          },
        ),
      },
      async (request, reply) => {
        const { device, licensee } = await ownDevice(request);
        const asked = fromBase64url((request.body as Static<typeof RequestBody>).request);
        const { certificate, authority, chain } = taken(await parts.enrolment.identify(device, licensee, asked));
        return reply.code(201).send({
          certificate: base64url(certificate),
          authority: base64url(authority),
          chain: chain.map((one) => base64url(one)),
        });
      },
    );

    deviceRoutes(app, { ...parts, callerOf });
    peopleRoutes(app, { ...parts, callerOf });

    app.get(
      '/v1/devices/:device/policy',
      {
        ...describe("The device's newest policy, never of a version below `above`, which the device has", {
          params: DeviceParams,
          querystring: AboveQuery,
          ...produced,
        }),
      },
      async (request, reply) => {
        const { device, licensee } = await ownDevice(request);
        const { above = 0 } = request.query as Static<typeof AboveQuery>;
        const customers = await registry.customersOf(licensee);
        return sendCbor(reply, taken(await parts.policies.renewed(device, licensee, customers, above)));
      },
    );

    app.get(
      '/v1/devices/:device/time',
      { ...describe('The time, signed for the device', { params: DeviceParams, ...produced }) },
      async (request, reply) => {
        const { device } = await ownDevice(request);
        return sendCbor(reply, taken(await parts.cryptographicDevice.signTime(device)));
      },
    );

    app.get(
      '/v1/devices/:device/suspension',
      {
        ...describe('The signed suspension of a suspended device', { params: DeviceParams, ...produced }),
      },
      async (request, reply) => {
        const { device } = await ownDevice(request);
        const suspension = await registry.suspension(device);
        return suspension === null ? reply.code(204).send() : sendCbor(reply, suspension);
      },
    );

    app.get(
      '/v1/devices/:device/settlement',
      {
        ...describe("How far the device's records have come: sequences that are logged, booked, delivered, evaluated", {
          params: DeviceParams,
          response: { 200: SettlementAnswer },
        }),
      },
      async (request) => {
        const { device, licensee } = await ownDevice(request);
        const state = await parts.settlement.of(device, licensee);
        return { ...state, grantsCursor: state.grantsCursor.toString(), drawableMills: state.drawableMills.toString() };
      },
    );

    let submissions = 0;
    app.post(
      '/v1/records',
      {
        bodyLimit: CBOR_BODY_BYTES,
        ...describe('Takes records of any device: one answer each (CDDL: submission, answers)', { ...cbor }),
      },
      async (request, reply) => {
        if (submissions >= SUBMISSIONS_AT_ONCE) {
          throw new Refusal(rejection('try-again', { reason: `${SUBMISSIONS_AT_ONCE} submissions are being taken` }));
        }
        const { records } = cborBody(submissionSchema, request);
        submissions += 1;
        const answers = await parts.acceptance.submit(records).finally(() => {
          submissions -= 1;
        });
        return sendCbor(reply, encodeWith(answersSchema, { answers }));
      },
    );

    app.post(
      '/v1/archived-records',
      {
        bodyLimit: CBOR_BODY_BYTES,
        ...describe(
          'Takes accepted records back from an archive, with their confirmations, after this server was restored from an older backup',
          { ...cbor },
        ),
      },
      async (request, reply) => {
        const { items } = cborBody(archiveSchema, request);
        return sendCbor(reply, encodeWith(answersSchema, { answers: await parts.acceptance.restore(items) }));
      },
    );

    app.post(
      '/v1/archived-certificates',
      {
        bodyLimit: CBOR_BODY_BYTES,
        ...describe(
          'Takes device certificates back from an archive, of every key epoch, after this server was restored from an older backup',
          { consumes: [CBOR] },
        ),
      },
      async (request, reply) => {
        const { licensee, certificates } = cborBody(archivedCertificatesSchema, request);
        own(request, licensee);
        taken(await parts.enrolment.restore(licensee, certificates, callerOf(request).actor));
        return reply.code(204).send();
      },
    );

    for (const part of Object.keys(RECORD_PARTS) as RecordPart[]) {
      app.get(
        `/v1/devices/:device/records/:sequence/${part}`,
        {
          ...describe(`What is stored of a record: ${RECORD_PARTS[part]}`, {
            params: RecordParams,
            ...produced,
          }),
        },
        async (request, reply) => {
          const { device, customer } = await ownDevice(request);
          const { sequence } = request.params as Static<typeof RecordParams>;
          const stored = await recordPart({ log, registry }, device, sequence, part);
          const isOwn = customer === null || (stored !== null && customerOf(stored.record) === customer);
          if (stored === null || !isOwn) throw new Refusal(rejection('unknown-record', { sequence }));
          return sendCbor(reply, stored.bytes);
        },
      );
    }

    app.post(
      '/v1/funds-requests',
      {
        ...describe('Grants funds, at most once for each request; the same request gets the same grant', { ...cbor }),
      },
      async (request, reply) => {
        const body = rawBody(request);
        const envelope = taken(parseEnvelope(body));
        const licensee = await registry.deviceLicensee(envelope.key.holder);
        // Of a device that is not enrolled nothing is granted: the refusal says so.
        if (licensee !== null) own(request, licensee);
        return sendCbor(reply, taken(await parts.funds.grant(body)));
      },
    );

    app.post(
      '/v1/archived-funds-grants',
      {
        ...describe('Books a funds grant from an archive, after this server was restored from an older backup', {
          consumes: [CBOR],
        }),
      },
      async (request, reply) => {
        const body = rawBody(request);
        own(request, taken(parsePayload(FUNDS_GRANT, taken(parseEnvelope(body)))).licensee);
        taken(await parts.funds.restore(body));
        return reply.code(204).send();
      },
    );

    app.get('/v1/programmes', { ...describe('The programmes of the postal authority') }, async (_request, reply) =>
      reply.type('application/json').send(taken(await parts.authority.programmes())),
    );
  });

  const endSessions = serveSessionUpgrades(app.server, {
    cdSessionSocket: parts.cdSessionSocket,
    refusalOf: async ({ headers, socket }) => {
      try {
        const { roles } = await callerAt(headers.authorization, socket.remoteAddress ?? '', SESSION_ROUTE);
        return mayAsk(SESSION_ROUTE, roles) ? null : rejection('unauthorised', {});
      } catch (error) {
        if (error instanceof Refusal) return error.rejection;
        throw error;
      }
    },
    requestId,
    log: logs,
  });
  app.addHook('preClose', async () => {
    endSessions();
  });
  return app;
}

function sendMoved(reply: FastifyReply, { ref, fresh, amountMills, balanceMills }: Moved): FastifyReply {
  return reply
    .code(fresh ? 201 : 200)
    .send({ ref, amountMills: amountMills.toString(), balanceMills: balanceMills.toString() });
}

function spoiledAnswer({ customer, amountMills, ...rest }: Spoiled) {
  return { ...rest, customer: customer === '' ? null : customer, amountMills: amountMills.toString() };
}

function requestId(): string {
  return `req_${randomBytes(8).toString('hex')}`;
}

/** The customer whose batch the record is of, or null. */
function customerOf(record: Uint8Array): CustomerId | null {
  const envelope = parseEnvelope(record);
  const statistics = envelope.ok ? parsePayload(BATCH_STATISTICS, envelope.value) : envelope;
  return statistics.ok ? (statistics.value.declaration.customer ?? null) : null;
}

function rawBody(request: FastifyRequest): Uint8Array {
  if (!(request.body instanceof Uint8Array)) {
    throw new Refusal(rejection('malformed', { path: 'Content-Type', reason: `${CBOR} is expected` }));
  }
  return request.body;
}

function cborBody<S extends Parameters<typeof parseBytes>[0]>(schema: S, request: FastifyRequest): Of<S> {
  return taken(parseBytes(schema, rawBody(request), CBOR_LIMITS)) as Of<S>;
}

function sendCbor(reply: FastifyReply, body: Uint8Array): FastifyReply {
  return reply.type(CBOR).send(Buffer.from(body.buffer, body.byteOffset, body.byteLength));
}

function base64url(value: Uint8Array): string {
  return Buffer.from(value).toString('base64url');
}

function fromBase64url(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64url'));
}

function refuseWith(
  reply: FastifyReply,
  request: FastifyRequest,
  refused: Rejection,
  errors: readonly Defect[] = [],
  status?: number,
): void {
  const problem = problemOf(refused, request.id, errors, status);
  if (problem.status === 503) void reply.header('retry-after', '1');
  if (problem.code === 'too-many-requests') {
    void reply.header('retry-after', String(problem.details['retryAfterSeconds'] ?? 1));
  }
  if (problem.status === 401) void reply.header('www-authenticate', 'Bearer');
  void reply.code(problem.status).type(PROBLEM_TYPE).serializer(JSON.stringify).send(problem);
}

function answerError(error: unknown, request: FastifyRequest, reply: FastifyReply, logs: Log): void {
  if (error instanceof Refusal) {
    refuseWith(reply, request, error.rejection);
    return;
  }
  const { statusCode, validation, message, retry } = error as {
    readonly statusCode?: number;
    readonly validation?: readonly { readonly instancePath: string; readonly message?: string }[];
    readonly message?: string;
    readonly retry?: string;
  };
  if (validation !== undefined) {
    const errors = validation.map((defect) => ({ path: defect.instancePath, reason: defect.message ?? 'not valid' }));
    const first = errors[0] ?? { path: '', reason: 'not valid' };
    refuseWith(reply, request, rejection('malformed', { path: first.path || 'request', reason: first.reason }), errors);
  } else if (statusCode === 413) {
    refuseWith(
      reply,
      request,
      rejection('limit-exceeded', { what: 'the body', value: 'larger', limit: `${CBOR_BODY_BYTES} bytes` }),
    );
  } else if (statusCode === 415) {
    const reason = 'this media type is not taken here';
    refuseWith(reply, request, rejection('malformed', { path: 'Content-Type', reason }), [], 415);
  } else if (statusCode !== undefined && statusCode < 500) {
    refuseWith(
      reply,
      request,
      rejection('malformed', { path: 'request', reason: message ?? 'not valid' }),
      [],
      statusCode,
    );
  } else if (retry === 'later' || retry === 'now') {
    logs.error('A request failed for now', error, { requestId: request.id });
    refuseWith(reply, request, rejection('try-again', { reason: 'a part of the server is not available' }));
  } else {
    logs.error('A request failed', error, { requestId: request.id, route: request.routeOptions.url ?? '' });
    refuseWith(reply, request, rejection('internal-fault', { where: 'the server', fault: request.id }));
  }
}
