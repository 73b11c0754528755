/**
 * The named crash points: one name for each way in which a process can die in a row of the tables "What is lost at each crash
 * point", "An interrupted refill" and "The end of a device" (ARCHITECTURE.md). `at-crash-point.mjs` says where in the code each lies.
 *
 * Guarantees nothing by itself: kills.test.ts and interruptions.test.ts hold lists and tables together, and every run expects each
 * point that it ordered to have been reached.
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
  /** Nothing was asked for yet when it is reached: whoever wants it asks again. */
  readonly undone?: true;
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

/** Those of a refill, in the order in which it comes by them. */
export const REFILL_POINTS: readonly CrashPoint[] = [
  {
    name: 'psd-before-funds-request',
    party: 'psd',
    row: 'PSD, before the commit of the request',
    undone: true,
  },
  { name: 'psd-after-funds-request', party: 'psd', row: 'host or PSD, after that commit, before the server has it' },
  { name: 'host-before-funds-request', party: 'host', row: 'host or PSD, after that commit, before the server has it' },
  { name: 'server-before-deciding', party: 'server', row: 'server, before it decides' },
  { name: 'server-after-deciding', party: 'server', row: 'server, after it booked, before the grant is signed' },
  {
    name: 'cryptographic-device-after-granting',
    party: 'cryptographic-device',
    row: 'cryptographic device, after granting, before the answer',
  },
  { name: 'server-before-storing-grant', party: 'server', row: 'server, with the grant, before it is stored' },
  { name: 'server-after-storing-grant', party: 'server', row: 'grant lost on its way' },
  { name: 'host-before-storing-grant', party: 'host', row: 'grant lost on its way' },
  { name: 'host-before-giving-grant', party: 'host', row: 'host, with the grant stored, before the PSD has it' },
  { name: 'psd-before-taking-grant', party: 'psd', row: 'host, with the grant stored, before the PSD has it' },
  { name: 'psd-after-taking-grant', party: 'psd', row: 'PSD, after the commit of the grant, before the answer' },
  { name: 'host-before-noting-grant', party: 'host', row: 'PSD, after the commit of the grant, before the answer' },
];

/** Those of a device's end, in the order in which each process comes by its own. */
export const END_POINTS: readonly CrashPoint[] = [
  {
    name: 'server-before-closing-policy',
    party: 'server',
    row: 'server, after the order, before the policy is signed',
  },
  { name: 'psd-after-last-closing', party: 'psd', row: 'host or PSD, before the statement' },
  { name: 'psd-after-last-sealing', party: 'psd', row: 'host or PSD, before the statement' },
  { name: 'host-before-storing-last-record', party: 'host', row: 'host or PSD, before the statement' },
  { name: 'host-before-statement', party: 'host', row: 'host or PSD, before the statement' },
  { name: 'psd-before-statement', party: 'psd', row: 'host or PSD, before the statement' },
  { name: 'psd-after-statement', party: 'psd', row: 'PSD, after the statement’s commit, before the answer' },
  { name: 'host-before-storing-statement', party: 'host', row: 'PSD, after the statement’s commit, before the answer' },
  {
    name: 'cryptographic-device-after-attesting-statement',
    party: 'cryptographic-device',
    row: 'cryptographic device, after attesting the statement, before the answer',
  },
  {
    name: 'server-after-appending-statement',
    party: 'server',
    row: 'server, after the append, before the ledger follows',
  },
  {
    name: 'cryptographic-device-after-confirming-statement',
    party: 'cryptographic-device',
    row: 'cryptographic device, after confirming the statement, before the answer',
  },
  { name: 'server-before-refund', party: 'server', row: 'server, within the refund' },
  { name: 'server-in-refund', party: 'server', row: 'server, within the refund' },
  { name: 'server-after-refund', party: 'server', row: 'server, within the refund' },
  { name: 'psd-before-erasure', party: 'psd', row: 'PSD, after the confirmation, before the erasure' },
  { name: 'psd-after-erasure', party: 'psd', row: 'PSD, after the erasure, before the answer' },
];
