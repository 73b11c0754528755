/**
 * The named crash points: one name for each way in which a process can die in a row of the table "What is lost at each crash
 * point" (ARCHITECTURE.md). `at-crash-point.mjs` says where in the code each lies.
 *
 * Guarantees nothing by itself: kills.test.ts holds list and table together, and every run of the kills expects each point that
 * it ordered to have been reached.
 */
import type { PartyName } from '@countermark/cli/installation-paths';

export type CrashPoint = {
  readonly name: string;
  readonly party: PartyName;
  /** The first cell of its row. */
  readonly row: string;
  /** Where the device has its memory for records, if the point exists in one memory only. */
  readonly records?: 'host' | 'psd';
  /** Passed at least twice in a mailing of two batches and three chunks. */
  readonly often?: true;
  /** It is a failed write that the process itself must end after, no SIGKILL. */
  readonly fails?: true;
};

export const CRASH_POINTS: readonly CrashPoint[] = [
  { name: 'host-before-asking', party: 'host', row: 'host, before a chunk is asked', often: true },
  {
    name: 'host-before-storing-answer',
    party: 'host',
    row: 'host, after the PSD franked, before the answer is stored',
    often: true,
  },
  { name: 'psd-before-commit', party: 'psd', row: 'PSD, before its commit', often: true },
  { name: 'psd-after-commit', party: 'psd', row: 'PSD, after its commit, before the answer', often: true },
  { name: 'psd-write-failed', party: 'psd', row: 'PSD, a failed write or fsync', often: true, fails: true },
  { name: 'psd-after-closing', party: 'psd', row: 'recount or close interrupted', often: true },
  { name: 'psd-in-recount', party: 'psd', row: 'recount or close interrupted', often: true },
  { name: 'host-in-recount', party: 'host', row: 'recount or close interrupted', records: 'host' },
  {
    name: 'psd-before-sealing',
    party: 'psd',
    row: 'recount or close interrupted',
    often: true,
  },
  { name: 'psd-after-sealing', party: 'psd', row: 'between seal and send', often: true },
  { name: 'host-before-storing-record', party: 'host', row: 'between seal and send', often: true },
  { name: 'host-after-storing-record', party: 'host', row: 'between seal and send', often: true },
  {
    name: 'cryptographic-device-after-attesting',
    party: 'cryptographic-device',
    row: 'cryptographic device, after attesting, before the answer',
  },
  { name: 'server-after-append', party: 'server', row: 'server, after the append, before the confirmation' },
  {
    name: 'cryptographic-device-after-confirming',
    party: 'cryptographic-device',
    row: 'cryptographic device, after signing a confirmation, before the answer',
  },
  { name: 'server-before-answering', party: 'server', row: 'confirmation lost on its way' },
  { name: 'host-before-confirming', party: 'host', row: 'confirmation lost on its way' },
  { name: 'psd-before-deletion', party: 'psd', row: 'PSD, after the confirmation, before the deletion', often: true },
  { name: 'psd-after-deletion', party: 'psd', row: 'PSD, after the deletion, before the answer' },
  { name: 'authority-before-storing', party: 'authority', row: 'authority down' },
  { name: 'server-before-delivery-cursor', party: 'server', row: 'server, after a delivery, before its cursor moves' },
  { name: 'authority-before-granting', party: 'authority', row: 'authority, after storing, before granting' },
  { name: 'server-in-ledger-step', party: 'server', row: 'ledger follower' },
];
