import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedStore, type EmbeddedStoreOptions, openEmbeddedStore } from './embedded-store.ts';

let directory: string;
let options: EmbeddedStoreOptions;
const open: EmbeddedStore[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'store-'));
  options = {
    path: join(directory, 'psd', 'psd.db'),
    applicationId: 0x436d5031,
    migrations: [
      'CREATE TABLE amount (id INTEGER PRIMARY KEY, mills INTEGER NOT NULL CHECK (mills >= 0), note BLOB) STRICT',
    ],
  };
});
afterEach(() => {
  for (const store of open.splice(0)) store.close();
  rmSync(directory, { recursive: true });
});

function opened(changes: Partial<EmbeddedStoreOptions> = {}): EmbeddedStore {
  const result = openEmbeddedStore({ ...options, ...changes });
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  open.push(result.value);
  return result.value;
}

describe('an embedded store', () => {
  it('is durable at every open, private, and exact', () => {
    const amount = 2n ** 62n + 1n;
    for (const round of [1n, 2n]) {
      const store = opened();
      expect(store.database.pragma('synchronous', { simple: true })).toBe(2n);
      expect(store.database.pragma('journal_mode', { simple: true })).toBe('wal');
      expect(store.database.pragma('foreign_keys', { simple: true })).toBe(1n);
      store.transaction(() => store.database.prepare('INSERT INTO amount VALUES (?, ?, NULL)').run(round, amount));
      expect(store.database.prepare('SELECT count(*), max(mills) FROM amount').raw().get()).toEqual([round, amount]);
      expect(statSync(options.path).mode & 0o777).toBe(0o600);
      open.pop()?.close();
    }
    chmodSync(options.path, 0o644);
    opened();
    expect(statSync(options.path).mode & 0o777).toBe(0o600);
  });

  it('undoes a transaction that throws, and goes on', () => {
    const store = opened();
    const insert = store.database.prepare('INSERT INTO amount VALUES (?, ?, NULL)');
    expect(() =>
      store.transaction(() => {
        insert.run(1n, 1n);
        throw new RangeError('no');
      }),
    ).toThrow(RangeError);
    expect(() => store.transaction(() => insert.run(1n, -1n))).toThrow(/CHECK/);
    store.transaction(() => insert.run(2n, 2n));
    expect(store.database.prepare('SELECT id FROM amount').pluck().all()).toEqual([2n]);
  });

  it('runs new migrations once and in order, and undoes one that fails', () => {
    opened();
    open.pop()?.close();
    const more = [
      ...options.migrations,
      'ALTER TABLE amount ADD COLUMN added INTEGER',
      'CREATE TABLE other (id INTEGER) STRICT',
    ];
    const store = opened({ migrations: more });
    expect(store.database.pragma('user_version', { simple: true })).toBe(3n);
    open.pop()?.close();
    expect(() =>
      openEmbeddedStore({ ...options, migrations: [...more, 'CREATE TABLE half (id INTEGER); nonsense'] }),
    ).toThrow(/nonsense/);
    const after = opened({ migrations: more });
    expect(after.database.prepare("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").pluck().get()).toBe(0n);
    open.pop()?.close();
    expect(openEmbeddedStore(options)).toMatchObject({ ok: false, rejection: { code: 'store-damaged' } });
  });

  it("refuses another program's database, a file that is none, and a damaged one", () => {
    opened();
    open.pop()?.close();
    expect(openEmbeddedStore({ ...options, applicationId: 7 })).toMatchObject({
      ok: false,
      rejection: { code: 'store-damaged' },
    });
    const text = join(directory, 'text.db');
    writeFileSync(text, 'not a database at all, but long enough to be read as a header'.repeat(100), { mode: 0o600 });
    expect(openEmbeddedStore({ ...options, path: text })).toMatchObject({
      ok: false,
      rejection: { code: 'store-damaged' },
    });
    expect(readFileSync(text, 'utf8')).toMatch(/^not a database/);

    const store = opened();
    store.transaction(() => {
      for (let id = 0n; id < 500n; id += 1n)
        store.database.prepare('INSERT INTO amount VALUES (?, 1, ?)').run(id, Buffer.alloc(200));
    });
    expect(store.integrityProblems()).toEqual([]);
    open.pop()?.close();
    truncateSync(options.path, 8192);
    const result = openEmbeddedStore(options);
    if (result.ok) {
      open.push(result.value);
      expect(result.value.integrityProblems()).not.toEqual([]);
    } else expect(result.rejection.code).toBe('store-damaged');
  });

  it('becomes a fault when the disk is full, having written nothing, and takes what fits', () => {
    const store = opened({ pagesMax: 16 });
    const insert = store.database.prepare('INSERT INTO amount VALUES (?, 1, ?)');
    expect(() => store.transaction(() => insert.run(1n, Buffer.alloc(200_000)))).toThrow(
      expect.objectContaining({ code: 'store-full', retry: 'later' }),
    );
    store.transaction(() => insert.run(2n, Buffer.alloc(100)));
    expect(store.database.prepare('SELECT id FROM amount').pluck().all()).toEqual([2n]);
  });

  it('has a commit whole or not at all, however the disk tears what a power cut left of it', () => {
    const store = opened();
    const log = `${options.path}-wal`;
    const sizes = [statSync(log).size];
    const files: { readonly data: Buffer; readonly log: Buffer }[] = [];
    store.transaction(() => store.database.exec('INSERT INTO amount VALUES (1, 1000, NULL), (2, 0, NULL)'));
    for (let commit = 1; commit <= 8; commit += 1) {
      sizes.push(statSync(log).size);
      store.transaction(() => {
        store.database.exec(
          'UPDATE amount SET mills = mills - 1 WHERE id = 1; UPDATE amount SET mills = mills + 1 WHERE id = 2',
        );
        store.database
          .prepare('INSERT INTO amount VALUES (?, 0, ?)')
          .run(BigInt(commit + 2), Buffer.alloc(commit * 1_500, commit));
      });
      files.push({ data: readFileSync(options.path), log: readFileSync(log) });
    }
    sizes.push(statSync(log).size);
    open.pop()?.close();
    const sector = fc.record({
      at: fc.nat(),
      content: fc.constantFrom('zeros', 'ones', 'of an earlier commit', 'gone'),
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 8 }), fc.array(sector, { minLength: 1, maxLength: 12 }), (commit, torn) => {
        const { data, log: written } = files[commit - 1]!;
        const from = sizes[commit]!;
        let bytes = Buffer.from(written);
        for (const { at, content } of torn) {
          // What was synchronised before this commit stays as it is: the disk keeps its word.
          const start = from + (at % Math.max(1, bytes.length - from));
          if (start >= bytes.length) continue;
          if (content === 'gone') bytes = bytes.subarray(0, start);
          else if (content === 'of an earlier commit')
            written.copy(bytes, start, sizes[commit - 1], sizes[commit - 1]! + 512);
          else bytes.fill(content === 'zeros' ? 0 : 0xff, start, Math.min(start + 512, bytes.length));
        }
        for (const end of ['-wal', '-shm']) rmSync(options.path + end, { force: true });
        writeFileSync(options.path, data);
        writeFileSync(log, bytes);
        const after = opened();
        const rows = after.database
          .prepare<[], { id: bigint; mills: bigint }>('SELECT id, mills FROM amount ORDER BY id')
          .all();
        const moved = rows[1]!.mills;
        expect([BigInt(commit - 1), BigInt(commit)]).toContain(moved);
        expect(rows[0]!.mills).toBe(1_000n - moved);
        expect(rows.length).toBe(Number(moved) + 2);
        expect(after.integrityProblems()).toEqual([]);
        after.transaction(() => after.database.exec('INSERT INTO amount VALUES (99, 0, NULL)'));
        open.pop()?.close();
      }),
      { numRuns: 150 },
    );
  });

  it('belongs to one process: a second is refused, and SIGKILL sets it free', async () => {
    opened();
    expect(openEmbeddedStore(options)).toMatchObject({ ok: false, rejection: { code: 'store-in-use' } });
    open.pop()?.close();

    const library = createRequire(import.meta.url).resolve('better-sqlite3');
    const program = `const d = new (require(${JSON.stringify(library)}))(${JSON.stringify(options.path)});
      d.pragma('locking_mode = EXCLUSIVE'); d.pragma('journal_mode = WAL'); d.exec('BEGIN EXCLUSIVE; COMMIT');
      d.exec('INSERT INTO amount VALUES (9, 9, NULL)'); console.log('open'); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await once(child.stdout, 'data');
      expect(openEmbeddedStore(options)).toEqual({
        ok: false,
        rejection: { code: 'store-in-use', detail: { store: options.path } },
      });
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    const store = opened();
    expect(store.database.prepare('SELECT id FROM amount').pluck().all()).toEqual([9n]);
  });
});
