/**
 * The authorisation matrix: every route of the running server, asked by everyone, answers as docs/authorisation.md says.
 *
 * Requests are for the caller's own, and otherwise empty: whoever may ask is refused for the request, or answered; whoever may not is
 * refused as `unauthorised` before anything is looked at.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { AUTHORISATION, SESSION_ROUTE } from '@countermark/server/authorisation';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ask, enrolled, licensee, type Parties, startParties, submit } from './server-parties.ts';

const ID = 'lic_matrix';
const page = readFileSync(new URL('../../docs/authorisation.md', import.meta.url), 'utf8');
const [heading = '', , ...rows] = page.slice(page.indexOf('| route |')).trim().split('\n');
const cellsOf = (line: string): string[] =>
  line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim().replaceAll('`', ''));
const callers = cellsOf(heading).slice(1);
const matrix = new Map(rows.map(cellsOf).map(([route = '', ...cells]) => [route, cells]));

let parties: Parties;
let device: string;
const credentials = new Map<string, string | null>();

/** Adds a person; answers the credential. */
async function person(name: string, role: string, of: object = {}): Promise<string> {
  const added = await ask(parties, parties.operator, '/v1/people', { name, role, ...of });
  expect(added.status).toBe(201);
  return added.json<{ credential: string }>().credential;
}

beforeAll(async () => {
  const configured = randomBytes(32).toString('hex');
  parties = await startParties({
    settings: {
      operators: [{ name: 'colleague', credential: configured }],
      rateLimits: { failuresPerAddress: 10_000, failuresPerName: 10_000 },
    },
  });
  const host = await licensee(parties, ID);
  const simulated = await enrolled(parties, host, ID);
  simulated.receive(100_000n);
  await submit(parties, host, [simulated.record()]);
  device = simulated.device;
  credentials.set('bootstrap', parties.operator).set('configured', configured).set('host', host);
  for (const role of ['operator', 'officer', 'auditor']) credentials.set(role, await person(`an-${role}`, role));
  credentials.set('customer', await person('a-customer', 'customer', { licensee: ID }));
  credentials.set('nobody', null);
});
afterAll(async () => {
  await parties.stop();
});

const pathOf = (route: string): string =>
  route
    .replace(/^\w+ /, '')
    .replace(':licensee', ID)
    .replace(':device', device)
    .replace(':sequence', '1')
    .replace(':person', 'unheard-of');
const refusedOf = async (route: string, credential: string | null): Promise<boolean> => {
  if (route === SESSION_ROUTE) return (await upgraded(credential)) === 401;
  const answer = await ask(parties, credential, pathOf(route), route.startsWith('POST ') ? {} : undefined);
  const isRefused = answer.status === 401;
  if (isRefused) expect(answer.json()).toMatchObject({ code: 'unauthorised' });
  return isRefused;
};

/** The status with which an upgrade to a session is answered. */
function upgraded(credential: string | null): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = {
      connection: 'Upgrade',
      upgrade: 'countermark-session',
      ...(credential === null ? {} : { authorization: `Bearer ${credential}` }),
    };
    const asked = httpRequest(new URL('/v1/session', parties.service.url), { headers, agent: false });
    asked.on('upgrade', (_response, socket) => {
      socket.destroy();
      resolve(101);
    });
    asked.on('response', (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    asked.on('error', reject);
    asked.end();
  });
}

describe('The authorisation matrix', () => {
  it('has a row for every route that the server registers, and no other', async () => {
    const { paths } = (await ask(parties, null, '/openapi.json')).json<{
      paths: Record<string, Record<string, unknown>>;
    }>();
    const registered = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path.replace(/\{(\w+)\}/g, ':$1')}`),
    );
    expect([...matrix.keys()].sort()).toEqual([...registered, SESSION_ROUTE].sort());
    expect(callers).toEqual([...credentials.keys()].sort((a, b) => callers.indexOf(a) - callers.indexOf(b)));
  });

  it.each(Object.keys(AUTHORISATION))('%s answers whom it says, and nobody else', async (route) => {
    const answered = [];
    for (const name of callers) answered.push((await refusedOf(route, credentials.get(name) ?? null)) ? '' : 'yes');
    expect(answered).toEqual(matrix.get(route));
  });

  it('is that of nobody for a revoked, an unknown, and a malformed credential, at every route', async () => {
    const revoked = await person('a-revoked', 'auditor');
    expect(await refusedOf('GET /v1/audit-entries', revoked)).toBe(false);
    expect((await ask(parties, parties.operator, '/v1/people/a-revoked/revocation', {})).status).toBe(200);
    const unknown = randomBytes(32).toString('hex');
    const altered = `an-officer.${unknown}`;
    const wrong = [revoked, unknown, altered, `nobody.${unknown}`, 'an-officer', `an-officer.${unknown}0`];
    for (const [route, cells] of matrix) {
      for (const credential of wrong) {
        expect([route, credential, await refusedOf(route, credential)]).toEqual([
          route,
          credential,
          cells[callers.indexOf('nobody')] === '',
        ]);
      }
    }
  });
});
