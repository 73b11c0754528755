/**
 * The authority's HTTP API: deliveries in, grants out, totals and programmes for whoever asks with the credential.
 *
 * Guarantees: nothing but `/health`, `/openapi.json` and `/v1/evidence`, which believes only what it verifies, answers without
 * the credential (compared as hashes, in constant time); bodies are bounded before they are read; every error is problem+json (RFC 9457) with a code of the catalogue and
 * the request's id. TLS 1.3 where a certificate is given; that nothing else leaves the
 * machine is the configuration's (`config.ts`).
 */
import { randomUUID, timingSafeEqual } from 'node:crypto';
import swagger from '@fastify/swagger';
import type { TlsMaterial } from '@countermark/node-platform/transport-security';
import type { Log } from '@countermark/node-platform/logs';
import { errorCode } from '@countermark/node-platform/fault';
import { dropUnread } from '@countermark/node-platform/unread-body';
import { nodeVerification } from '@countermark/node-platform/verification';
import { utf8 } from '@countermark/protocol/bytes';
import {
  DELIVERY_LIMITS,
  type Delivery,
  deliveryAnswersSchema,
  deliverySchema,
  grantListSchema,
  type HistoryPoint,
  recordListSchema,
} from '@countermark/protocol/interfaces/delivery';
import { EVIDENCE_LIMITS, type Evidence, evidenceSchema } from '@countermark/protocol/interfaces/evidence';
import { describeRejection, type Rejection, type RejectionCode, rejection } from '@countermark/protocol/rejection';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import { parseEnvelope } from '@countermark/protocol/cose';
import { type DeviceId, DEVICE_ID } from '@countermark/protocol/id';
import { parsePayload } from '@countermark/protocol/message';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { digestOf, digestText } from '@countermark/protocol/digest';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import type { Programme } from '@countermark/tariff/programme';
import { ENDED_EPOCH } from '@countermark/verify/chain';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { DeliveryAnswers } from './intake.ts';
import { recordsAfter } from './record-list.ts';
import type { AuthorityStore, GrantItem } from './store/authority-store.ts';
import { DIMENSION_NAMES, parseTotalsQuery } from './totals.ts';

export type HttpOptions = {
  /** 32 bytes in hex; only its hash is kept. */
  readonly credential: string;
  readonly store: AuthorityStore;
  readonly programmes: readonly Programme[];
  readonly log: Log;
  /** Absent where it speaks plain HTTP: on this machine, or behind what ends TLS. */
  readonly tls?: TlsMaterial;
  /** Takes a parsed delivery in; durable when it resolves. */
  readonly takeIn: (delivery: Delivery) => Promise<DeliveryAnswers>;
  /** Takes in what a host brings itself; durable when it resolves. */
  readonly takeInEvidence: (evidence: Evidence) => Promise<DeliveryAnswers>;
  /** The server has booked the grants up to the cursor after which it asks. */
  readonly grantsAreBooked: (cursor: number) => Promise<void>;
  /** Through which intake cursor every programme was evaluated. */
  readonly evaluatedThrough: () => Promise<number>;
};

const CBOR = 'application/cbor';
const PROBLEM = 'application/problem+json';
/** Anyone may bring evidence: so much at once leaves the deliveries their time. */
const EVIDENCE_AT_ONCE = 2;
const MAX_ROWS = 10_000;
/** A list of grants ends after so many, or with the grant that passes so many bytes. */
const GRANTS = 1_000;
const GRANTS_BYTES = 32 * 1024 * 1024;

const STATUS: Partial<Readonly<Record<RejectionCode, number>>> = {
  unauthorised: 401,
  'unknown-operation': 404,
  'cbor-too-large': 413,
  'limit-exceeded': 413,
  'try-again': 503,
  'internal-fault': 500,
};

const amount = Type.String({ pattern: '^-?[0-9]+$', description: 'Mills: 10^-exponent of the currency.' });
const problem = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String(),
    code: Type.String({ enum: Object.keys(CATALOGUE) }),
    request_id: Type.String(),
  },
  { description: 'RFC 9457; the codes are those of docs/errors.md.' },
);
const problemAnswer = { description: 'A problem.', content: { [PROBLEM]: { schema: problem } } };
const problems = { '4xx': problemAnswer, '5xx': problemAnswer };
const totalsAnswer = Type.Object({
  cursor: Type.Integer({ description: 'The intake cursor that the totals rest on.' }),
  by: Type.Array(Type.String()),
  rows: Type.Array(
    Type.Object({
      values: Type.Record(Type.String(), Type.Union([Type.String(), Type.Null()])),
      pieces: Type.String({ pattern: '^[0-9]+$' }),
      postageMills: amount,
      declaredMills: amount,
      differenceMills: amount,
    }),
  ),
});
const quarantineAnswer = Type.Object({
  records: Type.Array(
    Type.Object({
      device: Type.String(),
      sequence: Type.Integer(),
      digest: Type.String(),
      code: Type.String(),
      reason: Type.String(),
    }),
  ),
});

const deviceAnswer = Type.Object({
  device: Type.String(),
  sequence: Type.Integer({ description: 'Of its last accepted record.' }),
  digest: Type.String(),
  suspended: Type.String({ description: 'Why its later records earn nothing, or empty.' }),
  suspendedAfter: Type.Union([
    Type.Integer({ description: 'The last record that stands; those after it earn nothing.' }),
    Type.Null({ description: 'It is not suspended.' }),
  ]),
  ended: Type.Union([
    Type.Object({ licensee: Type.String(), returnedMills: amount, receivedMs: Type.Integer() }),
    Type.Null({ description: 'It has made no final statement.' }),
  ]),
});

/** The API, ready to listen. */
export async function authorityHttp(options: HttpOptions): Promise<FastifyInstance> {
  // Null is plain HTTP.
  const app: FastifyInstance = fastify({
    https: options.tls ?? null,
    bodyLimit: DELIVERY_LIMITS.maxBytes,
    requestTimeout: 60_000,
    logger: false,
    genReqId: () => randomUUID(),
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false } },
    // What the router refuses before any route is known: a path that is no URL.
    frameworkErrors: (error, request, reply) => {
      void refuse(request, reply, rejection('malformed', { path: 'request', reason: error.message }));
    },
  });
  refuseWell(app, options.log);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(CBOR, { parseAs: 'buffer' }, (_request, body, done) => {
    done(null, body);
  });
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Countermark postal authority',
        description: 'Accepted records in, discounts and credits out.',
        version: '1',
      },
      components: { securitySchemes: { credential: { type: 'http', scheme: 'bearer' } } },
      security: [{ credential: [] }],
    },
  });
  // After the plugin, so that it sees them.
  await app.register((routes, _, done) => {
    openRoutes(routes, options);
    done();
  });
  await app.register((routes, _, done) => {
    routes.addHook('onRequest', credentialCheck(options.credential));
    closedRoutes(routes, options);
    done();
  });
  await app.ready();
  return app;
}

function openRoutes(app: FastifyInstance, { store, evaluatedThrough, takeInEvidence }: HttpOptions): void {
  let atWork = 0;
  app.post(
    '/v1/evidence',
    {
      schema: {
        summary: 'Takes confirmed records from whoever has them.',
        description:
          'For a host whose server confirmed a record and does not deliver it. Body and answer are CBOR (evidence, delivery-answers): each record with its attestation and its confirmation, every part of which is verified. No credential is asked for; a few are taken at once, and try-again is answered beyond.',
        security: [],
        consumes: [CBOR],
        produces: [CBOR],
        response: { 200: { description: 'CBOR: delivery-answers', type: 'string', format: 'binary' }, ...problems },
      },
      bodyLimit: EVIDENCE_LIMITS.maxBytes,
      // CBOR is parsed by the protocol's own schema.
      validatorCompiler: () => () => true,
      serializerCompiler: () => (data) => JSON.stringify(data),
    },
    async (request, reply) => {
      const body = request.body instanceof Uint8Array ? request.body : new Uint8Array();
      const evidence = parseBytes(evidenceSchema, body, EVIDENCE_LIMITS);
      if (!evidence.ok) return refuse(request, reply, evidence.rejection);
      if (atWork >= EVIDENCE_AT_ONCE) {
        return refuse(request, reply, rejection('try-again', { reason: `${EVIDENCE_AT_ONCE} are being taken` }));
      }
      atWork += 1;
      try {
        const answers = await takeInEvidence(evidence.value);
        return await cbor(reply, encodeWith(deliveryAnswersSchema, answers));
      } finally {
        atWork -= 1;
      }
    },
  );

  const health = Type.Object({
    status: Type.Literal('ok'),
    intake: Type.Integer({ description: 'Records taken in.' }),
    evaluatedThrough: Type.Integer({ description: 'The intake cursor through which programmes were evaluated.' }),
  });
  app.get(
    '/health',
    {
      schema: {
        summary: 'Whether the authority and its store work.',
        security: [],
        response: { 200: health, ...problems },
      },
    },
    async () => {
      const { intake } = await store.positions();
      return { status: 'ok' as const, intake, evaluatedThrough: await evaluatedThrough() };
    },
  );
  app.get('/openapi.json', { schema: { hide: true } }, () => app.swagger());
}

function closedRoutes(
  app: FastifyInstance,
  { store, programmes, takeIn, evaluatedThrough, grantsAreBooked }: HttpOptions,
): void {
  app.post(
    '/v1/records',
    {
      schema: {
        summary: 'Delivers accepted records with their attestations.',
        description:
          'Body and answer are CBOR (docs/protocol: delivery, delivery-answers). Delivering again changes nothing and gets the same answers. The grants that follow from it come with GET /v1/grants, when evaluatedThrough has reached the answer’s cursor.',
        consumes: [CBOR],
        produces: [CBOR],
        response: { 200: { description: 'CBOR: delivery-answers', type: 'string', format: 'binary' }, ...problems },
      },
      // CBOR is parsed by the protocol's own schema.
      validatorCompiler: () => () => true,
      serializerCompiler: () => (data) => JSON.stringify(data),
    },
    async (request, reply) => {
      const body = request.body instanceof Uint8Array ? request.body : new Uint8Array();
      const delivery = parseBytes(deliverySchema, body, DELIVERY_LIMITS);
      if (!delivery.ok) return refuse(request, reply, delivery.rejection);
      return cbor(reply, encodeWith(deliveryAnswersSchema, await takeIn(delivery.value)));
    },
  );

  app.get(
    '/v1/records',
    {
      schema: {
        summary: 'Accepted records after a point of the history, for a server that has lost them.',
        description: 'CBOR (docs/protocol: record-list). Ask again after the point that it ends with until none comes.',
        produces: [CBOR],
        querystring: Type.Object(
          {
            since: Type.Optional(
              Type.String({
                pattern: '^[0-9]{1,15}:[0-9a-f]{64}$',
                description: 'A point of the history that a delivery or a list before was answered with.',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: { description: 'CBOR: record-list', type: 'string', format: 'binary' }, ...problems },
      },
      serializerCompiler: () => (data) => JSON.stringify(data),
    },
    async (request, reply) => {
      const { since } = request.query as { readonly since?: string };
      const list = await recordsAfter(store, since === undefined ? undefined : pointOf(since));
      return cbor(reply, encodeWith(recordListSchema, list));
    },
  );

  app.get(
    '/v1/grants',
    {
      schema: {
        summary: 'Grants after a cursor, oldest first.',
        description:
          'CBOR (docs/protocol: grant-list). Ask again after the last one until none comes. Asking after a cursor says that the grants up to it are booked: an authority that has just been started grants nothing before it knows.',
        produces: [CBOR],
        querystring: Type.Object(
          {
            after: Type.Optional(
              Type.String({
                pattern: '^[0-9]{1,15}(:[0-9a-f]{64})?$',
                description: 'The cursor of the last grant of the list before, and its digest.',
              }),
            ),
            since: Type.Optional(
              Type.String({
                pattern: '^[0-9]{1,15}:[0-9a-f]{64}$',
                description: 'A point of the history that a delivery was answered with: its cursor and its digest.',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: { description: 'CBOR: grant-list', type: 'string', format: 'binary' }, ...problems },
      },
      serializerCompiler: () => (data) => JSON.stringify(data),
    },
    async (request, reply) => {
      const { after, since } = request.query as { readonly after?: string; readonly since?: string };
      const [last = '0', digest] = after?.split(':') ?? [];
      if (after !== undefined) await grantsAreBooked(Number(last));
      const isKnown =
        (since === undefined || (await store.cameBy(pointOf(since)))) &&
        (digest === undefined || (await store.gave(Number(last), digestOf(Buffer.from(digest, 'hex')))));
      if (!isKnown) {
        return cbor(reply, encodeWith(grantListSchema, { grants: [], evaluatedThrough: 0, continues: false }));
      }
      // In this order: every grant up to this position is among those that are read next.
      const evaluated = await evaluatedThrough();
      const found = await store.grants(Number(last), GRANTS + 1);
      const grants = bounded(found);
      const isWhole = grants.length === found.length;
      const list = { grants, evaluatedThrough: isWhole ? evaluated : 0, continues: true };
      return cbor(reply, encodeWith(grantListSchema, list));
    },
  );

  app.get(
    '/v1/totals',
    {
      schema: {
        summary: 'Pieces and postage by any dimensions.',
        description: `by: some of ${DIMENSION_NAMES.join(', ')}, separated by commas. Every dimension may be a parameter too, with the value asked for; mailingDateFrom and mailingDateTo bound the mailing date. All standings add up to what the registers moved by; standing=paid is what counts.`,
        querystring: Type.Record(Type.String(), Type.String()),
        response: { 200: totalsAnswer, ...problems },
      },
    },
    async (request, reply) => {
      const query = parseTotalsQuery(request.query as Record<string, string>);
      if (!query.ok) return refuse(request, reply, query.rejection);
      const { rolled, rows } = await store.totals(query.value, MAX_ROWS + 1);
      if (rows.length > MAX_ROWS) {
        return refuse(
          request,
          reply,
          rejection('limit-exceeded', { what: 'number of rows', value: `more than ${MAX_ROWS}`, limit: MAX_ROWS }),
        );
      }
      return {
        cursor: rolled,
        by: query.value.by,
        rows: rows.map((row) => ({
          values: Object.fromEntries(query.value.by.map((dimension, i) => [dimension, row.values[i] ?? null])),
          pieces: row.pieces.toString(),
          postageMills: row.postageMills.toString(),
          declaredMills: row.declaredMills.toString(),
          differenceMills: (row.postageMills - row.declaredMills).toString(),
        })),
      };
    },
  );

  app.get(
    '/v1/programmes',
    {
      schema: {
        summary: 'The programmes that run, in the format of their files (docs/programmes.md).',
        description: 'An earlier version has the last day that the next one leaves it.',
        response: {
          200: Type.Object({
            programmes: Type.Array(Type.Unsafe<object>({ type: 'object', additionalProperties: true })),
          }),
          ...problems,
        },
      },
    },
    () => ({
      programmes: programmes.map(({ canonical, mailingDates }) => ({
        ...(JSON.parse(canonical) as object),
        mailingDates,
      })),
    }),
  );

  app.get<{ Params: { device: string } }>(
    '/v1/devices/:device',
    {
      schema: {
        summary:
          'Where the chain of a device stands, and how it has ended where its last record is its final statement.',
        params: Type.Object({ device: Type.String({ pattern: DEVICE_ID.source }) }),
        response: { 200: deviceAnswer, ...problems },
      },
    },
    async (request, reply) => {
      const device = request.params.device as DeviceId;
      const state = await store.device(device);
      if (state === null) return refuse(request, reply, rejection('unknown-device', { device }));
      const { head, suspended } = state;
      const suspendedAfter = suspended === '' ? null : state.suspendedAfter;
      const last = head.epoch === ENDED_EPOCH ? await store.recordAt(device, head.sequence) : null;
      const ended =
        last === null
          ? null
          : { licensee: last.licensee, returnedMills: returnedBy(last.bytes), receivedMs: last.receivedMs };
      return { device, sequence: head.sequence, digest: digestText(head.digest), suspended, suspendedAfter, ended };
    },
  );

  app.get(
    '/v1/quarantine',
    {
      schema: {
        summary: 'Records that were authentic and yet refused, kept as evidence.',
        response: { 200: quarantineAnswer, ...problems },
      },
    },
    async () => ({
      records: (await store.quarantined()).map((record) => ({
        device: record.device,
        sequence: record.sequence,
        digest: digestText(record.digest),
        code: record.rejection.code,
        reason: describeRejection(record.rejection),
      })),
    }),
  );
}

/** What a final statement gives back, in mills. */
function returnedBy(record: Uint8Array): string {
  const envelope = parseEnvelope(record);
  const statement = envelope.ok ? parsePayload(FINAL_STATEMENT, envelope.value) : envelope;
  if (!statement.ok) throw new TypeError('A stored final statement cannot be read.');
  return String(statement.value.returnedMills);
}

function pointOf(text: string): HistoryPoint {
  const [cursor = '', digest = ''] = text.split(':');
  return { cursor: Number(cursor), digest: digestOf(Buffer.from(digest, 'hex')) };
}

function bounded(found: readonly GrantItem[]): readonly GrantItem[] {
  let bytes = 0;
  const end = found.findIndex((item, index) => {
    bytes += item.grant.length;
    return index === GRANTS || bytes > GRANTS_BYTES;
  });
  return end < 0 ? found : found.slice(0, Math.max(1, end));
}

function cbor(reply: FastifyReply, bytes: Uint8Array): FastifyReply {
  return reply.type(CBOR).send(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
}

function credentialCheck(credential: string) {
  const expected = nodeVerification.sha256(utf8(credential));
  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> => {
    const given = /^Bearer ([0-9a-f]{64})$/.exec(request.headers.authorization ?? '')?.[1] ?? '';
    if (timingSafeEqual(nodeVerification.sha256(utf8(given)), expected)) return undefined;
    void reply.header('www-authenticate', 'Bearer');
    return refuse(request, reply, rejection('unauthorised', {}));
  };
}

function refuse(
  request: FastifyRequest,
  reply: FastifyReply,
  refused: Rejection,
  status = STATUS[refused.code] ?? 400,
): FastifyReply {
  return reply
    .code(status)
    .type(PROBLEM)
    .serializer((body: unknown) => JSON.stringify(body))
    .send({
      type: 'about:blank',
      title: refused.code,
      status,
      detail: describeRejection(refused),
      code: refused.code,
      request_id: request.id,
    });
}

function refuseWell(app: FastifyInstance, log: Log): void {
  app.setNotFoundHandler((request, reply) =>
    refuse(
      request,
      reply,
      rejection('unknown-operation', { operation: `${request.method} ${request.url.split('?')[0]}` }),
    ),
  );
  app.setErrorHandler(async (error: unknown, request, reply) => {
    await dropUnread(request.raw);
    const code = errorCode(error) ?? '';
    if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
      const limit = DELIVERY_LIMITS.maxBytes;
      return refuse(request, reply, rejection('cbor-too-large', { bytes: `more than ${limit}`, limitBytes: limit }));
    }
    if (code.startsWith('FST_ERR_')) {
      const reason = error instanceof Error ? error.message : code;
      const status = code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE' ? 415 : 400;
      return refuse(request, reply, rejection('malformed', { path: 'request', reason }), status);
    }
    const retry = (error as { readonly retry?: unknown }).retry;
    log.error('A request failed', error, { requestId: request.id, method: request.method });
    return refuse(
      request,
      reply,
      retry === 'later' || retry === 'now'
        ? rejection('try-again', { reason: code })
        : rejection('internal-fault', { where: 'the authority', fault: request.id }),
    );
  });
}
