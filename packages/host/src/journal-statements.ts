/**
 * SQL on the host's store: statements prepared once, writes in durable transactions.
 *
 * Guarantees: a write outside a transaction is one of its own, durable when it returns.
 */
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import type Database from 'better-sqlite3';
import type { Raw } from './journal-rows.ts';

export class JournalStatements {
  readonly #store: EmbeddedStore;
  readonly #statements = new Map<string, Database.Statement>();

  constructor(store: EmbeddedStore) {
    this.#store = store;
  }

  /** Runs writes in one durable transaction. */
  transaction<T>(work: () => T): T {
    return this.#store.transaction(work);
  }

  all(sql: string, ...values: unknown[]): Raw[] {
    return this.#store.read(() => this.#prepared(sql).all(...values)) as Raw[];
  }

  one(sql: string, ...values: unknown[]): Raw | undefined {
    return this.#store.read(() => this.#prepared(sql).get(...values)) as Raw | undefined;
  }

  run(sql: string, ...values: unknown[]): Database.RunResult {
    if (this.#store.database.inTransaction) return this.#prepared(sql).run(...values);
    return this.transaction(() => this.#prepared(sql).run(...values));
  }

  #prepared(sql: string): Database.Statement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#store.database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}
