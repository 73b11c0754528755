// Loaded into a shipped process before its main (`node --import`): lets it die at a crash point of crash-points.ts.
//
// The shipped code knows nothing of it: methods of its classes are wrapped here, in the built files. When the process reaches
// the point that stands first in the file COUNTERMARK_CRASH_ORDER ("NAME TIMES" in each line), for the TIMES-th time, the line is removed
// and the process sends itself SIGKILL before anything else happens. `psd-write-failed` lets the commit fail instead: once before
// anything was written, once (order "NAME 2") after all of it was.
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const order = process.env.COUNTERMARK_CRASH_ORDER ?? '';
const party = process.env.COUNTERMARK_CRASH_PARTY ?? '';

/** What is ordered now, in words, and what is ordered after it. */
function orders() {
  try {
    const [first = '', ...later] = readFileSync(order, 'utf8').trim().split('\n');
    return { words: first.split(' '), later };
  } catch {
    return { words: [], later: [] };
  }
}

/** Replaces the order that stands first. */
function reorder(...lines) {
  if (lines.length === 0) rmSync(order);
  else {
    // In one step: who watches it must not see half of it.
    writeFileSync(`${order}.next`, lines.join('\n'));
    renameSync(`${order}.next`, order);
  }
}

/** Whether this point was ordered and its time has come. */
function isOrdered(point) {
  const { words, later } = orders();
  if (words[0] !== point) return false;
  const left = Number(words[1]);
  if (left > 1) {
    reorder(`${point} ${String(left - 1)}`, ...later);
    return false;
  }
  reorder(...later);
  return true;
}

function reached(point) {
  if (!isOrdered(point)) return;
  process.kill(process.pid, 'SIGKILL');
  // Nothing of this process may go on, should the signal take its time.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

function built(path) {
  return import(new URL(`../../packages/${path}`, import.meta.url).href);
}

/** Puts `wrapper(original, ...arguments)` in a method's place. */
function around(prototype, method, wrapper) {
  const original = prototype[method];
  if (typeof original !== 'function') throw new Error(`A crash point hangs on ${method}, which is not there any more.`);
  prototype[method] = function (...args) {
    return wrapper.call(this, original.bind(this), ...args);
  };
}

const PLACES = {
  async psd() {
    const { PsdStore } = await built('psd/dist/shell/store.js');
    const { Device } = await built('psd/dist/shell/device.js');
    around(PsdStore.prototype, 'commit', (commit, before, after, kept) => {
      const asks = before.pendingFunds === null && after.pendingFunds !== null;
      const takes = before.pendingFunds !== null && after.pendingFunds === null;
      const ends = before.finalSequence === null && after.finalSequence !== null;
      const last = after.policy?.message.closing === true && !ends;
      if (asks) reached('psd-before-funds-request');
      if (takes) reached('psd-before-taking-grant');
      if (ends) reached('psd-before-statement');
      if (kept.zeroise === true) reached('psd-before-erasure');
      const closes = before.batch !== null && before.batch.closing === null && (after.batch?.closing ?? null) !== null;
      if (kept.chunk !== undefined) {
        reached('psd-before-commit');
        failOrdered(commit, before, after, kept);
      }
      if (kept.deleted !== undefined) reached('psd-before-deletion');
      commit(before, after, kept);
      if (kept.chunk !== undefined) reached('psd-after-commit');
      if (closes) reached('psd-after-closing');
      if (kept.record !== undefined) reached('psd-after-sealing');
      if (kept.deleted !== undefined) reached('psd-after-deletion');
      if (asks) reached('psd-after-funds-request');
      if (takes) reached('psd-after-taking-grant');
      if (closes && last) reached('psd-after-last-closing');
      if (kept.record !== undefined && last) reached('psd-after-last-sealing');
      if (ends) reached('psd-after-statement');
      if (kept.zeroise === true) reached('psd-after-erasure');
    });
    around(Device.prototype, 'recount', (recount, records) => {
      const counted = recount(records);
      reached('psd-in-recount');
      return counted;
    });
    around(Device.prototype, 'seal', (seal, batch, incomplete) => {
      // A recount from host memory is forgotten with this process.
      reached('psd-before-sealing');
      return seal(batch, incomplete);
    });
    around(PsdStore.prototype, 'chunkAt', (chunkAt, batch, firstIndex) => {
      const chunk = chunkAt(batch, firstIndex);
      reached('psd-in-recount');
      return chunk;
    });
  },

  async host() {
    const { psdAt } = await built('host/dist/psd-client.js');
    const { RecordTable } = await built('host/dist/record-table.js');
    const unconnected = psdAt('unconnected');
    around(Object.getPrototypeOf(unconnected), 'call', async (call, operation, ...rest) => {
      if (operation.name === 'frank-chunk') reached('host-before-asking');
      if (operation.name === 'confirm') reached('host-before-confirming');
      if (operation.name === 'funds-grant') reached('host-before-giving-grant');
      if (operation.name === 'final-statement') reached('host-before-statement');
      const answer = await call(operation, ...rest);
      if (!answer.ok) return answer;
      if (operation.name === 'frank-chunk') reached('host-before-storing-answer');
      if (operation.name === 'recount') reached('host-in-recount');
      if (operation.name === 'seal') {
        reached('host-before-storing-record');
        reached('host-before-storing-last-record');
      }
      if (operation.name === 'funds-grant') reached('host-before-noting-grant');
      if (operation.name === 'final-statement') reached('host-before-storing-statement');
      // In a session the device has its confirmations already; the host has not stored them.
      if (operation.name === 'send') reached('host-before-confirming');
      return answer;
    });
    unconnected.close();
    const { ServerClient } = await built('host/dist/server-client.js');
    around(ServerClient.prototype, 'fundsRequest', async (ask, request) => {
      reached('host-before-funds-request');
      const grant = await ask(request);
      if (grant.ok) reached('host-before-storing-grant');
      return grant;
    });
    around(RecordTable.prototype, 'add', (add, ...record) => {
      add(...record);
      reached('host-after-storing-record');
    });
  },

  async server() {
    const { SqlStatisticsLog } = await built('server/dist/statistics-log.js');
    const { Ledger } = await built('server/dist/ledger.js');
    around(SqlStatisticsLog.prototype, 'append', async (append, items, nowMs) => {
      const outcomes = await append(items, nowMs);
      const appended = items.filter((_, i) => outcomes[i]?.outcome === 'appended');
      if (appended.length > 0) reached('server-after-append');
      if (appended.some(({ record }) => record.type === 'final-statement')) reached('server-after-appending-statement');
      return outcomes;
    });
    around(SqlStatisticsLog.prototype, 'confirm', async (confirm, items) => {
      const confirmations = await confirm(items);
      reached('server-before-answering');
      return confirmations;
    });
    around(Ledger.prototype, 'bookIn', async (bookIn, tables, entries) => {
      const booked = await bookIn(tables, entries);
      if (booked.some(({ kind }) => kind === 'postage')) reached('server-in-ledger-step');
      if (entries.some(({ kind }) => kind === 'refund')) reached('server-in-refund');
      return booked;
    });
    const { Policies } = await built('server/dist/policies.js');
    around(Policies.prototype, 'renewed', async (renewed, ...of) => {
      if (isAsked(/Closures\.close /)) reached('server-before-closing-policy');
      return renewed(...of);
    });
    await aroundTransactions([
      { asker: /DeliveryFollower\.deliver /, before: 'server-before-delivery-cursor' },
      {
        asker: /#settle \(.*closures\.js/,
        before: 'server-before-refund',
        after: () => reached('server-after-refund'),
      },
      {
        asker: /#decide \(.*funds\.js/,
        before: 'server-before-deciding',
        after: () => reached('server-after-deciding'),
      },
      {
        asker: /#settle \(.*funds\.js/,
        before: 'server-before-storing-grant',
        after: () => reached('server-after-storing-grant'),
      },
    ]);
  },

  async authority() {
    await aroundTransactions([
      {
        asker: /SqlStore\.intake /,
        before: 'authority-before-storing',
        after: ({ decision }) => {
          if (decision.records.length > 0) reached('authority-before-granting');
        },
      },
    ]);
  },

  async 'cryptographic-device'() {
    const { parseEnvelope } = await built('protocol/dist/cose.js');
    const isStatement = (record) => parseEnvelope(record).value?.type === 'final-statement';
    const { Authentication } = await built('cryptographic-device/dist/authentication.js');
    around(Authentication.prototype, 'authenticate', async (authenticate, records, only) => {
      const attested = await authenticate(records, only);
      if (attested.some(({ ok }) => ok)) reached('cryptographic-device-after-attesting');
      if (records.some(isStatement)) reached('cryptographic-device-after-attesting-statement');
      return attested;
    });
    around(Authentication.prototype, 'confirm', async (confirm, items) => {
      const confirmed = await confirm(items);
      if (confirmed.some(({ ok }) => ok)) reached('cryptographic-device-after-confirming');
      if (items.some(({ record }) => isStatement(record))) reached('cryptographic-device-after-confirming-statement');
      return confirmed;
    });
    const { Issuing } = await built('cryptographic-device/dist/issuing.js');
    around(Issuing.prototype, 'fund', async (fund, ...asked) => {
      const granted = await fund(...asked);
      if (granted.ok) reached('cryptographic-device-after-granting');
      return granted;
    });
  },
};

/** A commit that fails, and leaves nobody certain of what lies on the disk. */
function failOrdered(commit, ...step) {
  const point = 'psd-write-failed';
  const { words, later } = orders();
  const written = words[1] === '2';
  if (words[0] === point && written) reorder(`${point} 1`, ...later);
  if (!isOrdered(point)) return;
  if (written) commit(...step);
  throw new Error(`a write failed, by order; ${written ? 'all' : 'nothing'} of it is on the disk`);
}

/** Whether the frame of a caller looks so. */
function isAsked(asker, stack = new Error('asked').stack) {
  return asker.test(stack);
}

/** Points before the transactions that a method begins (`asker`: its frame on the stack), and what is done after each. */
async function aroundTransactions(points) {
  const { SqlDatabase } = await built('sql/dist/database.js');
  around(SqlDatabase.prototype, 'transaction', async (transaction, ...work) => {
    const { stack } = new Error('asked');
    const point = points.find(({ asker }) => isAsked(asker, stack));
    if (point === undefined) return transaction(...work);
    reached(point.before);
    const value = await transaction(...work);
    point.after?.(value);
    return value;
  });
}

if (isMainThread) await PLACES[party]();
