/**
 * The routes about the keys of the cryptographic device's roles: the trust bundle, and the steps of a key ceremony.
 *
 * Guarantees that what is done bears the name of the credential with which it was asked. Who is heard: `authorisation.ts`.
 */
import { CEREMONY_ID, type CeremonyId } from '@countermark/protocol/id';
import { ROTATED_KEYS } from '@countermark/protocol/message';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import type { KeyCeremonies } from './key-ceremonies.ts';
import { taken } from './refusal.ts';
import type { Caller } from './role.ts';

export type KeyRouteParts = {
  readonly keyCeremonies: KeyCeremonies;
  readonly callerOf: (request: FastifyRequest) => Caller;
};

const strict = { additionalProperties: false } as const;
const RoleSchema = Type.Union(
  ROTATED_KEYS.map((role) => Type.Literal(role)),
  { description: 'A role of the cryptographic device, or what else it has a key for' },
);
const CeremonyParams = Type.Object({
  ceremony: Type.String({ pattern: CEREMONY_ID.source, description: 'A key ceremony: cer_ and 32 hex digits' }),
});
const Reason = Type.String({ minLength: 1, maxLength: 100, pattern: '^[^\\p{Cc}]*$' });
const OrderBody = Type.Object({ role: RoleSchema, reason: Reason }, strict);
const CancellationBody = Type.Object({ reason: Reason }, strict);
const NothingBody = Type.Object({}, strict);
const nullable = <T extends Parameters<typeof Type.Union>[0][number]>(type: T) => Type.Union([type, Type.Null()]);
const Time = Type.Integer({ minimum: 0, description: 'Milliseconds since 1970, UTC' });
const CeremonyAnswer = Type.Object({
  ceremony: Type.String(),
  role: Type.String(),
  reason: Type.String(),
  orderedBy: Type.String(),
  orderedAtMs: Time,
  confirmedBy: nullable(Type.String()),
  confirmedAtMs: nullable(Time),
  cancelledBy: nullable(Type.String()),
  cancelledAtMs: nullable(Time),
  epoch: nullable(Type.Integer({ minimum: 2, description: 'Of the new key; null before it is made' })),
});

/** Adds the routes. */
export function keyRoutes(app: FastifyInstance, { keyCeremonies, callerOf }: KeyRouteParts): void {
  app.get(
    '/v1/trust-bundle',
    { schema: { summary: 'The public keys on which every offline check stands, of every epoch' } },
    async (_request, reply) => reply.type('application/json').send(await keyCeremonies.trustBundle()),
  );

  app.post(
    '/v1/key-ceremonies',
    {
      schema: {
        summary: "Orders that a role's key be rotated; no effect before another officer confirms it",
        body: OrderBody,
        response: { 200: CeremonyAnswer },
      },
    },
    async (request) => {
      const { role, reason } = request.body as Static<typeof OrderBody>;
      return keyCeremonies.order(role, reason, callerOf(request).actor);
    },
  );

  app.get(
    '/v1/key-ceremonies',
    {
      schema: {
        summary: 'All key ceremonies, oldest first',
        response: { 200: Type.Object({ ceremonies: Type.Array(CeremonyAnswer) }) },
      },
    },
    async () => ({ ceremonies: await keyCeremonies.list() }),
  );

  app.post(
    '/v1/key-ceremonies/:ceremony/confirmation',
    {
      schema: {
        summary:
          "Confirms another officer's order: the cryptographic device rotates the key; again, it goes on where it ended",
        params: CeremonyParams,
        body: NothingBody,
        response: { 200: CeremonyAnswer },
      },
    },
    async (request) => {
      const { ceremony } = request.params as Static<typeof CeremonyParams>;
      return taken(await keyCeremonies.confirm(ceremony as CeremonyId, callerOf(request).actor));
    },
  );

  app.post(
    '/v1/key-ceremonies/:ceremony/cancellation',
    {
      schema: {
        summary: 'Takes an order back that nobody has confirmed yet',
        params: CeremonyParams,
        body: CancellationBody,
        response: { 200: CeremonyAnswer },
      },
    },
    async (request) => {
      const { ceremony } = request.params as Static<typeof CeremonyParams>;
      const { reason } = request.body as Static<typeof CancellationBody>;
      return taken(await keyCeremonies.cancel(ceremony as CeremonyId, reason, callerOf(request).actor));
    },
  );
}
