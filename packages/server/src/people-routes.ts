/**
 * The routes about people and what they did: adding, listing, revoking; the audit trail.
 *
 * Guarantees: only the bootstrap credential adds officers, so that no officer makes the second person that a confirmation needs; a
 * person's credential is in the one answer that adds them, and nowhere else.
 */
import { CUSTOMER_ID, type CustomerId, LICENSEE_ID, type LicenseeId } from '@countermark/protocol/id';
import { digestText } from '@countermark/protocol/digest';
import { rejection } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import { auditEntries } from './audit-trail.ts';
import { type People, PERSON_NAME } from './people.ts';
import { Refusal, taken } from './refusal.ts';
import { type Caller, PERSON_ROLES, type PersonRole } from './role.ts';
import type { ServerTables } from './tables.ts';

export type PeopleRouteParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly people: People;
  readonly callerOf: (request: FastifyRequest) => Caller;
};

const strict = { additionalProperties: false } as const;
const Name = Type.String({ pattern: PERSON_NAME.source, description: 'A person: lower case letters, digits, hyphens' });
const RoleSchema = Type.Union(
  PERSON_ROLES.map((role) => Type.Literal(role)),
  { description: 'operator, officer, auditor (reads only), customer (its own only)' },
);
const PersonBody = Type.Object(
  {
    name: Name,
    role: RoleSchema,
    licensee: Type.Optional(Type.String({ pattern: LICENSEE_ID.source })),
    customer: Type.Optional(Type.String({ pattern: CUSTOMER_ID.source })),
  },
  strict,
);
const PersonParams = Type.Object({ person: Name });
const NothingBody = Type.Object({}, strict);
const nullable = <T extends Parameters<typeof Type.Union>[0][number]>(type: T) => Type.Union([type, Type.Null()]);
const Time = Type.Integer({ minimum: 0, description: 'Milliseconds since 1970, UTC' });
const PersonAnswer = Type.Object({
  name: Type.String(),
  role: Type.String(),
  licensee: nullable(Type.String()),
  customer: nullable(Type.String()),
  addedBy: Type.String(),
  addedAtMs: Time,
  revokedBy: nullable(Type.String()),
  revokedAtMs: nullable(Time),
});
const TrailQuery = Type.Object(
  {
    after: Type.Optional(Type.Integer({ minimum: 0 })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000 })),
  },
  strict,
);
const TrailAnswer = Type.Object({
  entries: Type.Array(
    Type.Object({
      number: Type.Integer({ minimum: 1 }),
      atMs: Time,
      actorKind: Type.String({ description: 'bootstrap, configured, person, host, server' }),
      actor: Type.String(),
      act: Type.String(),
      subject: Type.String(),
      words: Type.String(),
      digest: Type.String(),
    }),
  ),
});

/** Adds the routes. */
export function peopleRoutes(app: FastifyInstance, { database, people, callerOf }: PeopleRouteParts): void {
  app.post(
    '/v1/people',
    {
      schema: {
        summary: 'Adds a person; the answer has their credential, once',
        body: PersonBody,
        response: { 201: Type.Object({ name: Type.String(), role: Type.String(), credential: Type.String() }) },
      },
    },
    async (request, reply) => {
      const { actor, roles } = callerOf(request);
      const { name, role, licensee = null, customer = null } = request.body as Static<typeof PersonBody>;
      if (role === 'officer' && !roles.includes('bootstrap')) throw new Refusal(rejection('unauthorised', {}));
      if ((role === 'customer') !== (licensee !== null) || (customer !== null && licensee === null)) {
        const reason = 'a customer, and nobody else, is of a licensee';
        throw new Refusal(rejection('malformed', { path: '/licensee', reason }));
      }
      const person = {
        name,
        role: role as PersonRole,
        licensee: licensee as LicenseeId | null,
        customer: customer as CustomerId | null,
      };
      const credential = taken(await people.add(person, actor));
      return reply.code(201).header('cache-control', 'no-store').send({ name, role, credential });
    },
  );

  app.get(
    '/v1/people',
    {
      schema: {
        summary: 'All people with their roles, revoked ones too',
        response: { 200: Type.Object({ people: Type.Array(PersonAnswer) }) },
      },
    },
    async () => ({ people: await people.list() }),
  );

  app.post(
    '/v1/people/:person/revocation',
    {
      schema: {
        summary: "Revokes a person's credential for good; again, it changes nothing",
        params: PersonParams,
        body: NothingBody,
        response: { 200: PersonAnswer },
      },
    },
    async (request) => {
      const { person } = request.params as Static<typeof PersonParams>;
      return taken(await people.revoke(person, callerOf(request).actor));
    },
  );

  app.get(
    '/v1/audit-entries',
    {
      schema: {
        summary: 'The audit trail, oldest first: each entry with the digest that covers the one before',
        querystring: TrailQuery,
        response: { 200: TrailAnswer },
      },
    },
    async (request) => {
      const { after = 0, limit = 200 } = request.query as Static<typeof TrailQuery>;
      const entries = await auditEntries(database, after, limit);
      return { entries: entries.map(({ digest, ...entry }) => ({ ...entry, digest: digestText(digest) })) };
    },
  );
}
