/**
 * Who may ask what: every route of the server with the roles that it answers. docs/authorisation.md is generated from it.
 *
 * Guarantees, with the hooks of `guardRoutes`: a route that is not declared here is not registered, the server does not start with it; a
 * caller without one of the roles is refused before the body is read. Whose data it is decides the route itself: customers and hosts get
 * their own licensee's only (`Caller.licensee`), a customer with a name its own only.
 */
import { rejection } from '@countermark/protocol/rejection';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { Refusal } from './refusal.ts';
import type { Caller, Role } from './role.ts';

/** Who is answered: roles, or anyone, without a credential. */
export type Allowed = readonly Role[] | 'anyone';

const READERS: readonly Role[] = ['operator', 'auditor', 'customer', 'host'];
const SUPERVISORS: readonly Role[] = ['operator', 'officer', 'auditor'];
const MACHINES: readonly Role[] = ['operator', 'host'];

/** By method and path. A GET that has something signed is no mere reading: auditors do not get it. */
export const AUTHORISATION: Readonly<Record<string, Allowed>> = {
  'GET /health': 'anyone',
  'GET /openapi.json': 'anyone',
  'GET /v1/trust-bundle': 'anyone',
  'POST /v1/people': ['bootstrap', 'officer'],
  'GET /v1/people': ['bootstrap', 'officer', 'auditor'],
  'POST /v1/people/:person/revocation': ['bootstrap', 'officer'],
  'GET /v1/audit-entries': ['bootstrap', 'officer', 'auditor'],
  'POST /v1/key-ceremonies': ['officer'],
  'GET /v1/key-ceremonies': SUPERVISORS,
  'POST /v1/key-ceremonies/:ceremony/confirmation': ['officer'],
  'POST /v1/key-ceremonies/:ceremony/cancellation': ['officer'],
  'POST /v1/licensees': ['operator'],
  'POST /v1/licensees/:licensee/deposits': ['operator'],
  'POST /v1/licensees/:licensee/payouts': ['operator'],
  'GET /v1/licensees/:licensee/spoiled-postage': ['operator', 'auditor', 'host'],
  'POST /v1/devices/:device/records/:sequence/spoiled-postage/withholding': ['operator', 'officer'],
  'POST /v1/licensees/:licensee/enrolment-codes': ['operator'],
  'GET /v1/licensees/:licensee/enrolment-codes': ['operator', 'auditor', 'host'],
  'POST /v1/licensees/:licensee/enrolment-codes/:id/revocation': ['operator'],
  'POST /v1/devices/:device/identity-certificate': MACHINES,
  'POST /v1/devices/:device/closure': ['operator', 'officer'],
  'POST /v1/devices/:device/profile': ['operator', 'officer'],
  'POST /v1/devices/:device/inspection': ['operator', 'officer'],
  'POST /v1/licensees/:licensee/customers': MACHINES,
  'GET /v1/licensees/:licensee/accounts': READERS,
  'GET /v1/licensees/:licensee/entries': READERS,
  'GET /v1/licensees/:licensee/grants': READERS,
  'POST /v1/devices': MACHINES,
  'GET /v1/devices': SUPERVISORS,
  'GET /v1/devices/:device': SUPERVISORS,
  'GET /v1/devices/:device/evidence': SUPERVISORS,
  'POST /v1/devices/:device/withdrawal': ['operator', 'officer'],
  'POST /v1/devices/:device/session-revocation': ['operator', 'officer'],
  'POST /v1/devices/:device/death': ['operator', 'officer'],
  'POST /v1/devices/:device/death/confirmation': ['officer'],
  'GET /v1/devices/:device/policy': MACHINES,
  'GET /v1/devices/:device/time': MACHINES,
  'GET /v1/devices/:device/suspension': ['operator', 'auditor', 'host'],
  'GET /v1/devices/:device/settlement': ['operator', 'auditor', 'host'],
  'POST /v1/records': MACHINES,
  'POST /v1/archived-records': MACHINES,
  'POST /v1/archived-certificates': MACHINES,
  'GET /v1/devices/:device/records/:sequence/record': READERS,
  'GET /v1/devices/:device/records/:sequence/attestation': READERS,
  'GET /v1/devices/:device/records/:sequence/confirmation': READERS,
  'GET /v1/devices/:device/records/:sequence/certificate': READERS,
  'POST /v1/funds-requests': MACHINES,
  'POST /v1/archived-funds-grants': MACHINES,
  'GET /v1/programmes': READERS,
  'GET /v1/session': MACHINES,
};

/** The route of connections that become sessions, which no router knows. */
export const SESSION_ROUTE = 'GET /v1/session';

/** Whether the route answers a caller with these roles. */
export function mayAsk(route: string, roles: readonly Role[]): boolean {
  const allowed = allowedOf(route);
  return allowed === 'anyone' || roles.some((role) => allowed?.includes(role));
}

/**
 * Has every route that is registered from now on ask who calls. `callerOf` says it, or throws a refusal; returns what tells a handler its
 * caller. @throws TypeError, at once, for a route that is not declared
 */
export function guardRoutes(
  app: FastifyInstance,
  callerOf: (request: FastifyRequest, route: string) => Promise<Caller>,
): (request: FastifyRequest) => Caller {
  const callers = new WeakMap<FastifyRequest, Caller>();
  app.addHook('onRoute', ({ method, url }) => {
    for (const one of [method].flat()) {
      if (allowedOf(routeName(one, url)) === undefined) {
        throw new TypeError(`the route ${one} ${url} does not declare who may ask it`);
      }
    }
  });
  app.addHook('onRequest', async (request) => {
    const { url } = request.routeOptions;
    // No route: the answer is that there is none.
    if (url === undefined) return;
    const route = routeName(request.method, url);
    if (allowedOf(route) === 'anyone') return;
    const caller = await callerOf(request, route);
    if (!mayAsk(route, caller.roles)) throw new Refusal(rejection('unauthorised', {}));
    callers.set(request, caller);
  });
  return (request) => {
    const caller = callers.get(request);
    if (caller === undefined) throw new Refusal(rejection('unauthorised', {}));
    return caller;
  };
}

function allowedOf(route: string): Allowed | undefined {
  return Object.hasOwn(AUTHORISATION, route) ? AUTHORISATION[route] : undefined;
}

function routeName(method: string, url: string): string {
  // What answers GET answers HEAD, to the same callers.
  return `${method === 'HEAD' ? 'GET' : method} ${url}`;
}
