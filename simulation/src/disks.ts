/**
 * The parties' databases on disks that fail: SQLite itself, in memory, behind the interface of better-sqlite3.
 *
 * SQLite's own recovery is not what is tested here, so a commit is the unit: it is on the disk whole, or not at all, whatever a
 * torn page would have been; pages torn and system calls failed below SQLite are tried with real processes (tests/crash). What is
 * modelled: a write or commit that fails; a failed fsync, after which nobody knows whether the commit is there; a full disk; commits that
 * were not synchronised and are gone after a power cut (only where somebody turned `synchronous` down); a database put back to an
 * older copy of itself; a second process on the same file; the end of the process before and after every commit.
 */
import Real from 'better-sqlite3';
import { ProcessEnded, type SimulatedProcess } from './process.ts';

type Values = readonly unknown[];

/** What goes wrong, and when. Asked before each. */
export type DiskFaults = {
  /** `full`: nothing is written; `error`: the write fails. */
  write(path: string): 'done' | 'full' | 'error';
  /** `lost` and `kept`: the fsync fails; what was committed is gone, or there after all. */
  commit(path: string): 'done' | 'full' | 'lost' | 'kept';
};

/** Told of a commit, with the names of the tables that it wrote to. */
export type OnCommitted = (path: string, process: SimulatedProcess, written: ReadonlySet<string>) => void;

const NO_FAULTS: DiskFaults = { write: () => 'done', commit: () => 'done' };

const { SqliteError } = Real;

/** One database file. */
class DiskFile {
  raw: Real.Database;
  owner: SimulatedProcess | undefined;
  /** As it was before the first commit that was not synchronised. */
  synchronised: Buffer | undefined;
  readonly statements: Map<string, Real.Statement> = new Map();

  constructor(content?: Buffer) {
    this.raw = opened(content);
  }

  replace(content: Buffer): void {
    this.statements.clear();
    this.raw.close();
    this.raw = opened(content);
    this.synchronised = undefined;
    this.#replaced = true;
  }

  /** Empties every table, so that another world can begin with it: opening a database and preparing its statements takes long. */
  emptied(rows: ReadonlyMap<string, readonly Values[]>): boolean {
    if (this.#replaced) return false;
    if (this.raw.inTransaction) this.raw.exec('ROLLBACK');
    this.owner = undefined;
    this.synchronised = undefined;
    this.raw.pragma('foreign_keys = OFF');
    for (const [table, kept] of rows) {
      this.statement(`DELETE FROM "${table}"`, '').run();
      for (const row of kept) {
        this.statement(`INSERT INTO "${table}" VALUES (${row.map(() => '?').join(', ')})`, '').run(...row);
      }
    }
    return true;
  }
  #replaced = false;

  /** Statements outlive the process that prepared them: preparing costs more than most of them. */
  statement(text: string, mode: '' | 'pluck' | 'raw'): Real.Statement {
    const name = mode === '' ? text : `${mode} ${text}`;
    const known = this.statements.get(name);
    if (known !== undefined) return known;
    const statement = this.raw.prepare(text);
    if (mode === 'pluck') statement.pluck();
    if (mode === 'raw') statement.raw();
    this.statements.set(name, statement);
    return statement;
  }
}

/** A database that new ones start as, and those of worlds that are over. */
class Template {
  readonly content: Buffer;
  readonly #rows = new Map<string, readonly Values[]>();
  readonly #over: DiskFile[] = [];

  constructor(content: Buffer) {
    this.content = content;
    const raw = opened(content);
    const tables = raw.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%'");
    for (const name of tables.pluck().all() as string[]) {
      this.#rows.set(name, raw.prepare(`SELECT * FROM "${name}"`).raw().all() as Values[]);
    }
    raw.close();
  }

  file(): DiskFile {
    return this.#over.pop() ?? new DiskFile(this.content);
  }

  /** Takes a file back. */
  giveBack(file: DiskFile): void {
    if (file.emptied(this.#rows)) this.#over.push(file);
    else file.raw.close();
  }
}

export type Templates = Map<string, Template>;

function opened(content: Buffer | undefined): Real.Database {
  const raw = content === undefined ? new Real(':memory:') : new Real(content);
  raw.defaultSafeIntegers(true);
  return raw;
}

export class Disks {
  faults: DiskFaults = NO_FAULTS;
  readonly #files = new Map<string, DiskFile>();
  readonly #templates: Templates;
  readonly #onCommitted: OnCommitted;

  /**
   * `templates`: databases by file name that new ones start as, migrated already; shared by the worlds of a thread.
   * `onCommitted` is told after each commit.
   */
  constructor(templates: Templates, onCommitted: OnCommitted) {
    this.#templates = templates;
    this.#onCommitted = onCommitted;
  }

  /** Opens the file for a process. @throws SqliteError SQLITE_BUSY where another has it open. */
  open(path: string, process: SimulatedProcess): SimulatedDatabase {
    let file = this.#files.get(path);
    if (file === undefined) {
      file = this.#templates.get(nameOf(path))?.file() ?? new DiskFile();
      this.#files.set(path, file);
    }
    if (file.owner?.alive === true && file.owner !== process)
      throw new SqliteError('database is locked', 'SQLITE_BUSY');
    file.owner = process;
    return new SimulatedDatabase(path, file, process, this);
  }

  /** Remembers the file as what new ones of its name start as, unless there is one already. */
  keepTemplate(path: string): void {
    const name = nameOf(path);
    if (!this.#templates.has(name)) this.#templates.set(name, new Template(this.copy(path)));
  }

  /** Rows for whoever looks from outside at what is committed; none where there is no such file. */
  rows<Row>(path: string, query: string, ...values: Values): Row[] {
    return (this.#files
      .get(path)
      ?.statement(query, '')
      .all(...values) ?? []) as Row[];
  }

  /** Changes what is committed behind everybody's back: what a dishonest owner of the disk does. */
  tamper(path: string, statement: string, ...values: Values): number {
    return (
      this.#files
        .get(path)
        ?.statement(statement, '')
        .run(...values).changes ?? 0
    );
  }

  /** A copy of the file as it is. */
  copy(path: string): Buffer {
    const file = this.#files.get(path);
    if (file === undefined) throw new Error(`there is no ${path}`);
    return file.raw.serialize();
  }

  /** Puts a copy in the place of the file. Its process must have ended. */
  put(path: string, content: Buffer | undefined): void {
    const file = this.#files.get(path);
    if (file?.owner?.alive === true) throw new Error(`${path} is open`);
    if (content === undefined) {
      // Nothing is there until somebody makes a new one.
      file?.raw.close();
      this.#files.delete(path);
    } else if (file === undefined) this.#files.set(path, new DiskFile(content));
    else file.replace(content);
  }

  paths(): string[] {
    return [...this.#files.keys()];
  }

  /** After the process ended: what it had not committed is gone; with a power cut also what was not synchronised. */
  ended(process: SimulatedProcess, powerCut: boolean): void {
    for (const file of this.#files.values()) {
      if (file.owner !== process) continue;
      if (file.raw.inTransaction) file.raw.exec('ROLLBACK');
      if (powerCut && file.synchronised !== undefined) file.replace(file.synchronised);
    }
  }

  committed(path: string, process: SimulatedProcess, written: ReadonlySet<string>): void {
    this.#onCommitted(path, process, written);
  }

  close(): void {
    for (const [path, file] of this.#files) {
      const template = this.#templates.get(nameOf(path));
      if (template === undefined) file.raw.close();
      else template.giveBack(file);
    }
    this.#files.clear();
  }
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** A database as a party has it open: what better-sqlite3 offers, as far as the parties use it. */
export class SimulatedDatabase {
  readonly #path: string;
  readonly #file: DiskFile;
  readonly #process: SimulatedProcess;
  readonly #disks: Disks;
  #synchronousFull = false;
  #written = new Set<string>();

  constructor(path: string, file: DiskFile, process: SimulatedProcess, disks: Disks) {
    this.#path = path;
    this.#file = file;
    this.#process = process;
    this.#disks = disks;
  }

  get inTransaction(): boolean {
    return this.#process.alive && this.#file.raw.inTransaction;
  }

  defaultSafeIntegers(): this {
    return this;
  }

  pragma(text: string, options?: { readonly simple?: boolean }): unknown {
    this.#live();
    // A database in memory has no log; what the parties ask for is what they get on a disk.
    if (/^journal_mode\s*=\s*wal$/i.test(text)) return 'wal';
    const value = this.#file.raw.pragma(text, options);
    if (/^synchronous\s*=/i.test(text)) {
      this.#synchronousFull = this.#file.raw.pragma('synchronous', { simple: true }) === 2n;
    }
    return value;
  }

  exec(text: string): this {
    this.#live();
    this.#file.raw.exec(text);
    return this;
  }

  prepare(text: string): SimulatedStatement {
    this.#live();
    return new SimulatedStatement(this, text);
  }

  serialize(): Buffer {
    this.#live();
    return this.#file.raw.serialize();
  }

  close(): this {
    if (this.#file.owner === this.#process) this.#file.owner = undefined;
    return this;
  }

  /** For the statements. */
  statement(text: string, mode: '' | 'pluck' | 'raw'): Real.Statement {
    this.#live();
    return this.#file.statement(text, mode);
  }

  /** Runs a statement that may write, with what the disk makes of it. */
  writing<T>(text: string, run: () => T): T {
    this.#live();
    const kind = kindOf(text);
    switch (kind) {
      case 'begin':
        this.#written.clear();
        if (!this.#synchronousFull) this.#file.synchronised ??= this.#file.raw.serialize();
        return run();
      case 'rollback':
      case 'read':
        return run();
      case 'commit':
        return this.#commit(run);
      case 'write':
        if (!this.#file.raw.inTransaction) this.#written.clear();
        this.#written.add(tableOf(text));
        if (this.#file.raw.inTransaction) {
          this.#fail(this.#disks.faults.write(this.#path));
          return run();
        }
        return this.#commit(run);
    }
  }

  #commit<T>(run: () => T): T {
    this.#process.boundary('before a commit');
    const fate = this.#disks.faults.commit(this.#path);
    if (fate === 'full') this.#fail('full');
    if (fate === 'lost') {
      if (this.#file.raw.inTransaction) this.#file.raw.exec('ROLLBACK');
      throw new SqliteError('disk I/O error', 'SQLITE_IOERR_FSYNC');
    }
    const value = run();
    this.#disks.committed(this.#path, this.#process, this.#written);
    if (fate === 'kept') throw new SqliteError('disk I/O error', 'SQLITE_IOERR_FSYNC');
    this.#process.boundary('after a commit');
    return value;
  }

  #fail(fate: 'done' | 'full' | 'error'): void {
    if (fate === 'done') return;
    // SQLite rolls back by itself on these.
    if (this.#file.raw.inTransaction) this.#file.raw.exec('ROLLBACK');
    if (fate === 'full') throw new SqliteError('database or disk is full', 'SQLITE_FULL');
    throw new SqliteError('disk I/O error', 'SQLITE_IOERR_WRITE');
  }

  #live(): void {
    if (!this.#process.alive) throw new ProcessEnded(this.#process.name);
  }
}

const tables = new Map<string, string>();

/** The table that a statement writes to. */
function tableOf(text: string): string {
  const known = tables.get(text);
  if (known !== undefined) return known;
  const name = /\b(?:into|update|from)\s+"?(\w+)/i.exec(text)?.[1]?.toLowerCase() ?? '';
  tables.set(text, name);
  return name;
}

type Kind = 'begin' | 'commit' | 'rollback' | 'read' | 'write';
const kinds = new Map<string, Kind>();

function kindOf(text: string): Kind {
  const known = kinds.get(text);
  if (known !== undefined) return known;
  const word = /^\s*([a-z]+)/i.exec(text)?.[1]?.toLowerCase() ?? '';
  const kind: Kind =
    word === 'begin' || word === 'savepoint'
      ? 'begin'
      : word === 'commit' || word === 'release'
        ? 'commit'
        : word === 'rollback'
          ? 'rollback'
          : word === 'select' || word === 'pragma' || word === 'values' || word === 'explain'
            ? 'read'
            : word === 'with' && !/\b(insert|update|delete)\b/i.test(text)
              ? 'read'
              : 'write';
  kinds.set(text, kind);
  return kind;
}

/** A prepared statement. */
export class SimulatedStatement {
  readonly #database: SimulatedDatabase;
  readonly #text: string;
  #mode: '' | 'pluck' | 'raw' = '';

  constructor(database: SimulatedDatabase, text: string) {
    this.#database = database;
    this.#text = text;
    // What cannot be prepared must say so here.
    database.statement(text, '');
  }

  get reader(): boolean {
    return this.#real().reader;
  }

  pluck(on = true): this {
    this.#mode = on ? 'pluck' : '';
    return this;
  }

  raw(on = true): this {
    this.#mode = on ? 'raw' : '';
    return this;
  }

  run(...values: Values): unknown {
    return this.#database.writing(this.#text, () => this.#real().run(...values));
  }

  get(...values: Values): unknown {
    return this.#database.writing(this.#text, () => this.#real().get(...values));
  }

  all(...values: Values): unknown[] {
    return this.#database.writing(this.#text, () => this.#real().all(...values));
  }

  *iterate(...values: Values): IterableIterator<unknown> {
    // Rows are read ahead: what iterates may write meanwhile, which one connection in memory would refuse.
    yield* this.all(...values);
  }

  #real(): Real.Statement {
    return this.#database.statement(this.#text, this.#mode);
  }
}
