/**
 * The end of a mailing in the journal.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Journal } from './journal.ts';
import { openHostStore } from './journal-schema.ts';

test('A job is done with the reading of its file, in one unit of work', () => {
  const folder = mkdtempSync(join(tmpdir(), 'runs-'));
  const opened = openHostStore(join(folder, 'host.sqlite'));
  if (!opened.ok) throw new Error(opened.rejection.code);
  const store = opened.value;
  store.database.exec(
    "INSERT INTO job (job, state, tariff, created_ms) VALUES ('one', 'franking', 't', 0), ('two', 'franking', 't', 0)",
  );
  store.database.exec(
    "INSERT INTO run (run, job, ordinal, file, file_digest, columns, cells, state) VALUES (7, 'one', 1, 'f', x'00', '[]', '[]', 'active')",
  );
  const journal = new Journal(store);
  journal.runs.finish(7);
  expect(journal.runs.get(7)?.state).toBe('franked');
  expect(journal.jobs.get('one')?.state).toBe('done');
  expect(journal.jobs.get('two')?.state).toBe('franking');
  store.close();
  rmSync(folder, { recursive: true, force: true });
});
