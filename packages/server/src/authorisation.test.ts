/** A route that does not declare who may ask it is refused at start; what is declared is asked before a body is read. */
import { rejection } from '@countermark/protocol/rejection';
import fastify from 'fastify';
import { describe, expect, it } from 'vitest';
import { AUTHORISATION, guardRoutes, mayAsk } from './authorisation.ts';
import { Refusal } from './refusal.ts';
import type { Caller, Role } from './role.ts';

const caller = (role: Role): Caller => ({
  actor: { kind: 'person', name: 'a' },
  roles: [role],
  licensee: null,
  customer: null,
});

function guarded(role: Role | null) {
  const app = fastify();
  app.setErrorHandler((error, _request, reply) =>
    reply.code(401).send(error instanceof Refusal ? error.rejection.code : 'fault'),
  );
  const callerOf = guardRoutes(app, async () => {
    if (role === null) throw new Refusal(rejection('unauthorised', {}));
    return caller(role);
  });
  return { app, callerOf };
}

describe('A route', () => {
  it('that is not declared cannot be registered', () => {
    const { app } = guarded('operator');
    expect(() => app.get('/v1/secrets', async () => 'x')).toThrow('does not declare');
    expect(() => app.delete('/v1/licensees', async () => 'x')).toThrow('DELETE /v1/licensees does not declare');
    // What an object has of itself is no declaration.
    expect(mayAsk('constructor', ['operator'])).toBe(false);
  });

  it('answers the declared roles, HEAD as GET, and anyone only where it says so', async () => {
    const asked = async (role: Role | null, method: 'GET' | 'HEAD' | 'POST', url: string) => {
      const { app, callerOf } = guarded(role);
      app.get('/health', async () => 'x');
      app.get('/v1/people', async (request) => callerOf(request).roles[0]);
      app.post('/v1/people', async (request) => callerOf(request).roles[0]);
      return (await app.inject({ method, url, ...(method === 'POST' ? { payload: {} } : {}) })).statusCode;
    };
    expect(await asked(null, 'GET', '/health')).toBe(200);
    expect(await asked(null, 'GET', '/v1/people')).toBe(401);
    expect(await asked('auditor', 'GET', '/v1/people')).toBe(200);
    expect(await asked('auditor', 'HEAD', '/v1/people')).toBe(200);
    expect(await asked('customer', 'HEAD', '/v1/people')).toBe(401);
    expect(await asked('auditor', 'POST', '/v1/people')).toBe(401);
    expect(await asked('officer', 'POST', '/v1/people')).toBe(200);
    expect(await asked(null, 'GET', '/v1/nothing')).toBe(404);
  });
});

describe('The declarations', () => {
  const routesOf = (role: Role): string[] => Object.keys(AUTHORISATION).filter((route) => mayAsk(route, [role]));

  it('give auditors and customers nothing that changes or has something signed', () => {
    for (const role of ['auditor', 'customer'] as const) {
      expect(
        routesOf(role).filter((route) => !route.startsWith('GET ') || /\/(policy|time|session)$/.test(route)),
      ).toEqual([]);
    }
  });

  it('give no single role both steps that need two people, and money to no officer', () => {
    expect(routesOf('operator')).not.toContain('POST /v1/devices/:device/death/confirmation');
    expect(routesOf('officer').filter((route) => route.includes('/licensees') || route.includes('funds'))).toEqual([]);
    expect(routesOf('bootstrap').filter((route) => !route.includes('/v1/people') && !route.includes('audit'))).toEqual([
      'GET /health',
      'GET /openapi.json',
      'GET /v1/trust-bundle',
    ]);
  });
});
