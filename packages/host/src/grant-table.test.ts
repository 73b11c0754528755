/**
 * Funds grants in the journal.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Journal } from './journal.ts';
import { openHostStore } from './journal-schema.ts';

test('What is archived of a request is the grant that the device took, not one that was altered on its way before', () => {
  const folder = mkdtempSync(join(tmpdir(), 'grants-'));
  const store = openHostStore(join(folder, 'host.sqlite'));
  if (!store.ok) throw new Error(store.rejection.code);
  const { grants } = new Journal(store.value);
  grants.addFunds(1, null, Buffer.from('altered'));
  grants.addFunds(1, null, Buffer.from('granted'));
  grants.fundsApplied(1);
  grants.addFunds(1, null, Buffer.from('later'));
  expect(grants.fundsTaken().map(String)).toEqual(['granted']);
  store.value.close();
  rmSync(folder, { recursive: true, force: true });
});
