import { openLog } from '@countermark/node-platform/logs';
import { digestOf } from '@countermark/protocol/digest';
import { grantListSchema } from '@countermark/protocol/interfaces/delivery';
import { parseBytes } from '@countermark/protocol/schema';
import type { FastifyInstance } from 'fastify';
import { afterEach, describe, expect, test } from 'vitest';
import { authorityHttp } from './http.ts';
import type { AuthorityStore, GrantItem } from './store/authority-store.ts';

const credential = 'ab'.repeat(32);
const authorization = `Bearer ${credential}`;
let app: FastifyInstance | undefined;

async function serving(parts: Partial<AuthorityStore>): Promise<FastifyInstance> {
  app = await authorityHttp({
    credential,
    store: parts as AuthorityStore,
    programmes: [],
    log: openLog('authority', { write: () => undefined }),
    takeIn: () => Promise.reject(new Error('not asked for')),
    takeInEvidence: () => Promise.reject(new Error('not asked for')),
    evaluatedThrough: () => Promise.resolve(77),
    grantsAreBooked: () => Promise.resolve(),
  });
  return app;
}

afterEach(async () => {
  await app?.close();
});

describe('the list of grants', () => {
  const issued = (count: number, bytes: number): GrantItem[] =>
    Array.from({ length: count }, (_, i) => ({
      cursor: i + 1,
      digest: digestOf(new Uint8Array(32)),
      grant: new Uint8Array(bytes),
    }));
  const listed = async (all: readonly GrantItem[], after: number) => {
    const http = await serving({
      grants: (from, limit) => Promise.resolve(all.filter(({ cursor }) => cursor > from).slice(0, limit)),
    });
    const { rawPayload } = await http.inject({ url: `/v1/grants?after=${after}`, headers: { authorization } });
    const parsed = parseBytes(grantListSchema, rawPayload, { maxBytes: 1 << 27, maxDepth: 8 });
    if (!parsed.ok) throw new Error(parsed.rejection.code);
    return [parsed.value.grants.map(({ cursor }) => cursor).at(-1), parsed.value.evaluatedThrough];
  };

  test.each<[string, number, number, number, [number | undefined, number]]>([
    ['none', 0, 1, 0, [undefined, 77]],
    ['as many as fit', 1_000, 1, 0, [1_000, 77]],
    ['more than fit, which promises nothing yet', 1_001, 1, 0, [1_000, 0]],
    ['the rest of them', 1_001, 1, 1_000, [1_001, 77]],
    ['large ones, up to a bound', 200, 256 * 1024, 0, [128, 0]],
    ['the rest of those', 200, 256 * 1024, 128, [200, 77]],
  ])('has %s', async (_, count, bytes, after, end) => {
    expect(await listed(issued(count, bytes), after)).toEqual(end);
  });
});

describe('a fault', () => {
  test.each<[string, object, number, string]>([
    ['that time cures', { code: 'database-unreachable', retry: 'later' }, 503, 'try-again'],
    ['that nobody knows', {}, 500, 'internal-fault'],
  ])('%s is a problem without its details', async (_, properties, status, code) => {
    const http = await serving({
      quarantined: () => Promise.reject(Object.assign(new Error('postgres://user:secret@host'), properties)),
    });
    const response = await http.inject({ url: '/v1/quarantine', headers: { authorization } });
    expect(response.statusCode).toBe(status);
    expect(response.json()).toMatchObject({ code, status });
    expect(response.body).not.toContain('secret');
  });
});

test('a path that is no URL is a problem too', async () => {
  const response = await (await serving({})).inject({ url: '/%zz', headers: { authorization } });
  expect(response.statusCode).toBe(400);
  expect(response.headers['content-type']).toContain('application/problem+json');
  expect(response.json()).toMatchObject({ code: 'malformed', status: 400 });
});

describe('the description', () => {
  test('names every path, and what refuses it', async () => {
    const http = await serving({});
    const { openapi, paths, security } = (await http.inject({ url: '/openapi.json' })).json<{
      openapi: string;
      paths: Record<string, Record<string, { responses: object }>>;
      security: object[];
    }>();
    expect(openapi).toBe('3.1.0');
    expect(security).toEqual([{ credential: [] }]);
    expect(Object.keys(paths).sort()).toEqual([
      '/health',
      '/v1/devices/{device}',
      '/v1/evidence',
      '/v1/grants',
      '/v1/programmes',
      '/v1/quarantine',
      '/v1/records',
      '/v1/totals',
    ]);
    for (const operations of Object.values(paths)) {
      for (const operation of Object.values(operations)) {
        expect(operation.responses).toHaveProperty(['4XX', 'content', 'application/problem+json', 'schema']);
      }
    }
  });
});
