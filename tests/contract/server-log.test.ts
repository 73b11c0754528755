/**
 * The statistics log on SQLite and on a real PostgreSQL: one contract.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeVerification } from '@countermark/node-platform/verification';
import { digestOf } from '@countermark/protocol/digest';
import type { LicenseeId } from '@countermark/protocol/id';
import { mills } from '@countermark/protocol/money';
import { type LogItem, SqlStatisticsLog } from '@countermark/server/statistics-log';
import { MIGRATIONS, type ServerTables } from '@countermark/server/tables';
import { openDatabase, type SqlDatabase } from '@countermark/sql/database';
import { openRecord, recordIdentity } from '@countermark/verify/record';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { type TestPostgres, testPostgres } from '../postgres.ts';
import { value } from './server-parties.ts';

const LICENSEE = 'lic_log' as LicenseeId;
const CERTIFICATE = digestOf(new Uint8Array(32).fill(5));
const NOW_MS = 1_795_000_000_000;
const folder = mkdtempSync(join(tmpdir(), 'log-'));
const postgres = await testPostgres();
const kinds: readonly (readonly [string, () => Promise<string>])[] = [
  ['SQLite', () => Promise.resolve(`sqlite://${join(folder, 'log.sqlite')}`)],
  ['PostgreSQL', () => Promise.resolve((postgres as TestPostgres).url)],
];

afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
  rmSync(folder, { recursive: true });
});

/** As the cryptographic device would have found it. */
function item(bytes: Uint8Array, attestation = Uint8Array.of(1, 2, 3)): LogItem {
  const keys = () => ({ publicKey: new Uint8Array(65), authentication: 'signature' as const });
  const record = value(value(openRecord(bytes, { port: nodeVerification, keys })).finish(true));
  return { record, attestation, certificate: CERTIFICATE };
}

function device(): SimulatedDevice {
  const made = new SimulatedDevice(LICENSEE);
  made.receive(1_000_000n);
  return made;
}

describe.each(kinds)('The statistics log on %s', (name, url) => {
  const skipped = name === 'PostgreSQL' && typeof postgres === 'string';
  let database: SqlDatabase<ServerTables>;
  let log: SqlStatisticsLog;
  beforeAll(async () => {
    if (skipped) return;
    database = await openDatabase<ServerTables>(await url(), { migrations: MIGRATIONS, schema: 'countermark_server' });
    log = new SqlStatisticsLog(database);
  });
  afterAll(async () => {
    if (!skipped) await database.close();
  });
  const outcomes = async (items: readonly LogItem[]) =>
    (await log.append(items, NOW_MS)).map((one) => (one.outcome === 'rejected' ? one.rejection.code : one.outcome));

  it.skipIf(skipped)('appends records of many devices in one unit, and keeps the exact bytes', async () => {
    const devices = [device(), device(), device()];
    const items = Array.from({ length: 30 }, (_, i) => item(devices[i % 3]!.record(), Uint8Array.of(i)));
    expect(await outcomes(items)).toEqual(items.map(() => 'appended'));
    for (const [i, one] of items.entries()) {
      const { device: id, sequence, digest } = recordIdentity(one.record);
      const entry = (await log.entry(id, sequence))!;
      expect(Buffer.from(entry.record)).toEqual(Buffer.from(one.record.verified.bytes));
      expect(Buffer.from(entry.attestation)).toEqual(Buffer.of(i));
      expect(Buffer.from(entry.digest)).toEqual(Buffer.from(digest));
      expect(Buffer.from(entry.certificate)).toEqual(Buffer.from(CERTIFICATE));
      expect(entry).toMatchObject({ acceptedAtMs: NOW_MS, confirmation: null, suspended: false });
    }
    expect((await log.head(devices[0]!.device)).registers).toEqual(devices[0]!.registers);
  });

  it.skipIf(skipped)('answers what it has already with what it stored', async () => {
    const simulated = device();
    const first = item(simulated.record(), Uint8Array.of(1));
    const second = item(simulated.record(), Uint8Array.of(2));
    expect(await outcomes([first, second, first])).toEqual(['appended', 'appended', 'already-accepted']);
    await log.confirm([{ device: simulated.device, sequence: 1, confirmation: Uint8Array.of(7) }]);
    const [again] = await log.append([{ ...first, attestation: Uint8Array.of(9) }], NOW_MS + 1);
    expect(again).toMatchObject({ outcome: 'already-accepted', entry: { sequence: 1, acceptedAtMs: NOW_MS } });
    const { attestation, confirmation } = (again as { entry: { attestation: Uint8Array; confirmation: Uint8Array } })
      .entry;
    expect([Buffer.from(attestation), Buffer.from(confirmation)]).toEqual([Buffer.of(1), Buffer.of(7)]);
  });

  it.skipIf(skipped)('refuses what comes out of order, with the sequence that it expects', async () => {
    const simulated = device();
    const [first, second, third] = [simulated.record(), simulated.record(), simulated.record()].map((one) => item(one));
    expect(await outcomes([first!])).toEqual(['appended']);
    const [refused] = await log.append([third!], NOW_MS);
    expect(refused).toMatchObject({ rejection: { code: 'out-of-order', detail: { sequence: 3, expected: 2 } } });
    expect(await outcomes([second!, third!])).toEqual(['appended', 'appended']);
  });

  it.skipIf(skipped)(
    'keeps both records of a fork, suspends the device, and goes on accepting its chain, marked',
    async () => {
      const simulated = device();
      const other = item(simulated.copy().record({ pieces: 3 }));
      const own = item(simulated.record());
      expect(await outcomes([own, other])).toEqual(['appended', 'fork']);
      expect(await log.head(simulated.device)).toMatchObject({ sequence: 1, suspended: true });
      const evidence = await log.evidence(simulated.device);
      expect(evidence.map((one) => [one.code, Buffer.from(one.record)])).toEqual([
        ['fork', Buffer.from(other.record.verified.bytes)],
      ]);
      expect(await outcomes([other])).toEqual(['fork']);
      expect(await log.evidence(simulated.device)).toHaveLength(1);
      expect(await outcomes([item(simulated.record())])).toEqual(['appended']);
      expect((await log.entry(simulated.device, 2))!.suspended).toBe(true);
      expect((await log.entry(simulated.device, 1))!.suspended).toBe(false);
    },
  );

  it.skipIf(skipped)(
    'marks the records after the one that stands: the head when it was suspended, or a later one',
    async () => {
      const simulated = device();
      await log.suspend(simulated.device, 'stolen');
      const marks = async (count: number) => {
        for (let i = 0; i < count; i += 1) expect(await outcomes([item(simulated.record())])).toEqual(['appended']);
        const { sequence, suspendedAfter } = await log.head(simulated.device);
        const entries = Array.from({ length: sequence }, (_, at) => log.entry(simulated.device, at + 1));
        return [suspendedAfter, ...(await Promise.all(entries)).map((entry) => entry?.suspended)];
      };
      expect(await marks(1)).toEqual([0, true]);
      // Its head at a second suspension is no other one.
      await log.suspend(simulated.device, 'again');
      expect(await marks(1)).toEqual([0, true, true]);
      // What is marked stays marked; nor is less let stand.
      await log.standUntil(simulated.device, 3);
      await log.standUntil(simulated.device, 1);
      expect(await marks(2)).toEqual([3, true, true, false, true]);
      const standing = device();
      expect(await outcomes([item(standing.record())])).toEqual(['appended']);
      await log.standUntil(standing.device, 9);
      expect(await log.head(standing.device)).toMatchObject({ suspended: false, suspendedAfter: 0 });
    },
  );

  it.skipIf(skipped)('quarantines a record with broken registers; the chain stands', async () => {
    const simulated = device();
    const statistics = simulated.statistics();
    const { observed } = statistics;
    const closed = { ...observed.closed, descendingMills: mills(observed.closed.descendingMills + 1n) };
    const broken = item(simulated.copy().seal({ ...statistics, observed: { ...observed, closed } }));
    expect(await outcomes([broken])).toEqual(['inconsistent']);
    expect(await log.head(simulated.device)).toMatchObject({ sequence: 0, suspended: false });
    expect((await log.evidence(simulated.device)).map((one) => one.code)).toEqual(['inconsistent']);
    expect(await outcomes([item(simulated.record())])).toEqual(['appended']);
  });

  it.skipIf(skipped)(
    'has room for the evidence of a fork, whatever else of the device was refused before',
    async () => {
      const simulated = device();
      const other = item(simulated.copy().record({ pieces: 9 }));
      await outcomes([item(simulated.record()), item(simulated.rotation(CERTIFICATE))]);
      const thief = simulated.copy();
      thief.epoch = 1;
      const refused = Array.from({ length: 70 }, (_, i) => {
        Object.assign(thief, { sequence: 2, head: simulated.head, registers: simulated.registers });
        return item(thief.record({ pieces: i + 1 }));
      });
      expect(new Set(await outcomes(refused))).toEqual(new Set(['superseded-key']));
      const kept = (await log.evidence(simulated.device)).length;
      expect(kept).toBeLessThan(70);
      expect(await outcomes([other])).toEqual(['fork']);
      const evidence = await log.evidence(simulated.device);
      expect(evidence).toHaveLength(kept + 1);
      expect(evidence.filter(({ code }) => code === 'fork')).toHaveLength(1);
      expect(await outcomes([item(simulated.record())])).toEqual(['appended']);
    },
  );

  it.skipIf(skipped)('stores one confirmation for a record, for ever', async () => {
    const simulated = device();
    await log.append([item(simulated.record()), item(simulated.record())], NOW_MS);
    const { device: id } = simulated;
    const store = async (...rows: readonly [number, number][]) =>
      (
        await log.confirm(rows.map(([sequence, byte]) => ({ device: id, sequence, confirmation: Uint8Array.of(byte) })))
      ).map((bytes) => bytes[0]);
    expect(await store([1, 11])).toEqual([11]);
    expect(await store([1, 12], [2, 22])).toEqual([11, 22]);
    expect(await store([2, 23], [2, 24])).toEqual([22, 22]);
  });

  it.skipIf(skipped)('lets exactly one of two submissions append, however they meet', async () => {
    const devices = Array.from({ length: 6 }, device);
    const records = devices.map((one) => one.record());
    const forward = records.map((one) => item(one));
    const answers = await Promise.all([
      outcomes(forward),
      outcomes([...forward].reverse()),
      ...forward.map((one) => outcomes([one])),
    ]);
    expect(answers.flat().filter((one) => one === 'appended')).toHaveLength(6);
    expect(new Set(answers.flat())).toEqual(new Set(['appended', 'already-accepted']));
  });

  it.skipIf(skipped)('is read by cursor in the order of commits, without missing one', async () => {
    const start = await log.position();
    const devices = Array.from({ length: 4 }, device);
    const seen: string[] = [];
    let cursor = start;
    const state = { appending: true };
    const reading = (async () => {
      while (state.appending || (await log.after(cursor, 1)).length > 0) {
        for (const entry of await log.after(cursor, 3)) {
          seen.push(`${entry.device}#${entry.sequence}`);
          cursor = entry.cursor;
        }
      }
    })();
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(devices.map((one) => log.append([item(one.record()), item(one.record())], NOW_MS)));
    }
    state.appending = false;
    await reading;
    expect(new Set(seen).size).toBe(40);
    expect(seen).toHaveLength(40);
    expect(await log.sequenceAt(devices[0]!.device, cursor)).toBe(10);
    expect(await log.sequenceAt(devices[0]!.device, start)).toBe(0);
  });
});
