import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { backupList, NEVER_BACK_UP } from './backup-list.ts';
import { installationPaths } from './installation-paths.ts';

const DATA = '/srv/franking';
const paths = installationPaths(DATA, '');
const page = readFileSync(new URL('../../../docs/backup.md', import.meta.url), 'utf8').replaceAll('’', "'");

describe('What belongs into a backup', () => {
  it.each([
    ['with SQLite', undefined],
    ['with PostgreSQL', 'postgres://franking:hunter2@db.example/countermark'],
  ])('is the same in the status and in docs/backup.md: %s', (_, database) => {
    for (const { path, why } of backupList(paths, { database })) {
      const name = path.startsWith(DATA) ? relative(DATA, path) : 'database';
      expect(page, path).toMatch(new RegExp(`\\| \`?${name.replaceAll('.', '\\.')}/?\`? .*\\|`));
      expect(page).toContain(why.replaceAll('’', "'"));
    }
    expect(page).toContain(NEVER_BACK_UP);
  });

  it('names the database where the stores of server and authority are in PostgreSQL, without its password', () => {
    const list = backupList(paths, { database: 'postgres://franking:hunter2@db.example/countermark' });
    expect(list.map(({ path }) => path)).toContain('postgres://franking@db.example/countermark');
    expect(list.map(({ path }) => path)).not.toContain(paths.parties.server);
    expect(JSON.stringify(list)).not.toContain('hunter2');
  });

  it('never has the device', () => {
    for (const database of [undefined, 'postgres://localhost/countermark']) {
      expect(backupList(paths, { database }).map(({ path }) => path)).not.toContain(paths.parties.psd);
    }
  });
});
