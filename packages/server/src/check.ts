/**
 * `check`: reads the server's store from its first record, log, registry, ledger and audit trail, and holds it against what other parties testify.
 *
 * Guarantees what `log-check.ts`, `ledger-check.ts`, `standing-check.ts`, `audit-check.ts` and `comparison.ts` do. Changes nothing, and makes no store where there is none.
 */
import { existsSync } from 'node:fs';
import type { Examination } from '@countermark/node-platform/examination';
import { accept, type Result } from '@countermark/protocol/result';
import { CompiledQuery } from 'kysely';
import { checkTrail } from './audit-check.ts';
import { Comparison } from './comparison.ts';
import type { Config } from './config.ts';
import { Ledger } from './ledger.ts';
import { LedgerCheck } from './ledger-check.ts';
import { checkLog } from './log-check.ts';
import { Registry } from './registry.ts';
import { openStore } from './service.ts';
import { checkStanding } from './standing-check.ts';
import { SqlStatisticsLog } from './statistics-log.ts';

/** What is wrong, in words. Rejections: those of `openStore`. */
export async function checkServer(config: Config, examination: Examination): Promise<Result<readonly string[]>> {
  if (config.database.startsWith('sqlite:')) {
    const path = decodeURIComponent(new URL(config.database).pathname);
    if (!existsSync(path)) {
      examination.problem(`There is no store at ${path}.`);
      return accept(examination.problems);
    }
  }
  const opened = await openStore(config);
  if (!opened.ok) return opened;
  const { database, roleKeys } = opened.value;
  try {
    if (database.kind === 'sqlite') {
      const pages = await database.read((tables) =>
        tables.executeQuery<{ integrity_check: string }>(CompiledQuery.raw('PRAGMA integrity_check')),
      );
      for (const row of pages.rows) if (row.integrity_check !== 'ok') examination.problem(row.integrity_check);
      if (examination.problems.length > 0) return accept(examination.problems);
    }
    const registry = new Registry(database, roleKeys);
    const parts = { database, roleKeys, registry, log: new SqlStatisticsLog(database) };
    const ledger = await LedgerCheck.of(database, roleKeys, examination);
    const broken = await checkLog(parts, examination, (records) => ledger.page(records));
    await ledger.rest(new Ledger(database), broken === 0);
    await checkStanding(parts, examination);
    await checkTrail(database, examination);
    await new Comparison(parts, examination, config.policy.currency).all();
    return accept(examination.problems);
  } finally {
    await database.close();
  }
}
