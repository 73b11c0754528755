import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
