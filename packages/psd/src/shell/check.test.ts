import { mkdtempSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Authentication } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TestAuthority } from '../../testing/authority.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../testing/mailing.ts';
import { checkStore } from './check.ts';
import { openDevice } from './device.ts';

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

let directory: string;
let path: string;
const authority = new TestAuthority();
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'check-'));
  path = join(directory, 'psd.db');
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** Two confirmed records, two held ones, and an open batch, with memory inside the device. */
async function written(authentication: Authentication = 'signature'): Promise<void> {
  const device = value(
    openDevice({
      path,
      authentication,
      memory: 'psd',
      recordCapacity: 100,
      trustBundle: authority.trustBundle,
      software: { version: '0.1.0', measurement: new Uint8Array(32) as Digest },
      onBroken: (fault) => {
        throw fault as Error;
      },
    }),
  );
  const enrolling = authority.enrolling(value(device.enrolmentRequest()));
  value(
    device.install(
      authority.bytes.certificate(authority.certificate(enrolling)),
      authority.bytes.policy(authority.policy(device.id)),
    ),
  );
  value(device.fundsGrant(authority.bytes.grant(authority.grant(value(device.fundsRequest(mills(100_000n))).request))));
  for (let n = 1; n <= 5; n++) {
    value(device.openBatch(declarationOf(batchNumbered(n))));
    value(await device.frankChunk(chunkOf(batchNumbered(n), 0, pieces(3))));
    value(await device.frankChunk(chunkOf(batchNumbered(n), 3, pieces(2, 690, 1))));
    if (n === 5) break;
    value(device.closeBatch(batchNumbered(n), 0));
    const { digest } = value(await device.seal(batchNumbered(n), false));
    if (n <= 2) value(device.confirm(authority.bytes.confirmation(device.id, n, digest)));
  }
  await device.close();
}

/** Alters the store as someone with an editor would. */
function altered(sql: string): readonly string[] {
  const database = new Database(path);
  database.pragma('ignore_check_constraints = ON');
  database.exec(sql);
  database.close();
  return value(checkStore(path));
}

describe('check', () => {
  it.each(['signature', 'mac'] as const)('finds nothing in a device’s own store: %s', async (authentication) => {
    await written(authentication);
    expect(checkStore(path)).toEqual({ ok: true, value: [] });
  });

  it.each([
    ['DELETE FROM record WHERE sequence = 2', /record 2 is missing/],
    ['DELETE FROM record WHERE sequence = 4', /the chain stands at 4, the last record is 3/],
    ['UPDATE record SET digest = zeroblob(32) WHERE sequence = 2', /record 3 does not follow its predecessor/],
    ['UPDATE record SET digest = zeroblob(32) WHERE sequence = 3', /record 3 is not the one that the chain names/],
    ['UPDATE record SET bytes = (SELECT bytes FROM record WHERE sequence = 3) WHERE sequence = 4', /record 4 is not/],
    ['UPDATE record SET bytes = zeroblob(600) WHERE sequence = 4', /record 4: /],
    ['UPDATE device SET head = zeroblob(32)', /the head of the chain is not the last record/],
    ['UPDATE device SET ascending = ascending + 1', /CHECK constraint failed in device/],
    ['UPDATE device SET ascending = ascending - 4000, descending = descending + 4000', /opened with higher registers/],
    ['UPDATE device SET pieces = pieces + 1', /has 6 pieces, its Merkle tree 5 leaves/],
    ['UPDATE batch SET frontier = zeroblob(64)', /the open batch .*not as the device made it/],
    ["DELETE FROM chunk WHERE batch = 'bat_00000000000000000000000000000004' AND first_index = 3", /has 3 of its 5/],
    ["DELETE FROM chunk WHERE batch = 'bat_00000000000000000000000000000005' AND first_index = 3", /lacks its piece/],
    [
      "UPDATE chunk SET salts = zeroblob(48) WHERE batch = 'bat_00000000000000000000000000000005' AND first_index = 0",
      /not as the device made it/,
    ],
    [
      "UPDATE message SET bytes = (SELECT bytes FROM message WHERE name = 'policy') WHERE name = 'certificate'",
      /device-certificate/,
    ],
    ["DELETE FROM secret WHERE name = 'signing'", /key signing is missing/],
  ])('says in words what %s did', async (sql, words) => {
    await written();
    expect(altered(sql).join(' | ')).toMatch(words);
  });

  it('says that a store is cut off, and that there is none', async () => {
    expect(value(checkStore(path))).toEqual([expect.stringMatching(/no store/)]);
    await written();
    truncateSync(path, 8_192);
    const result = checkStore(path);
    expect(result.ok ? result.value.length > 0 : result.rejection.code === 'store-damaged').toBe(true);
  });
});
