// Loaded into a shipped process before its main (`node --import`): lets it die at a crash point of crash-points.ts.
//
// The shipped code knows nothing of it: methods of its classes are wrapped here, in the built files. When the process reaches
// the point that stands in the file COUNTERMARK_CRASH_ORDER ("NAME TIMES"), for the TIMES-th time, the order is removed and the
// process sends itself SIGKILL before anything else happens. `psd-write-failed` lets the commit fail instead: once before
// anything was written, once (order "NAME 2") after all of it was.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const order = process.env.COUNTERMARK_CRASH_ORDER ?? '';
const party = process.env.COUNTERMARK_CRASH_PARTY ?? '';

/** Whether this point was ordered and its time has come. */
function isOrdered(point) {
  let words;
  try {
    words = readFileSync(order, 'utf8').split(' ');
  } catch {
    return false;
  }
  if (words[0] !== point) return false;
  const left = Number(words[1]);
  if (left > 1) {
    writeFileSync(order, `${point} ${String(left - 1)}`);
    return false;
  }
  rmSync(order);
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
      const answer = await call(operation, ...rest);
      if (!answer.ok) return answer;
      if (operation.name === 'frank-chunk') reached('host-before-storing-answer');
      if (operation.name === 'recount') reached('host-in-recount');
      if (operation.name === 'seal') reached('host-before-storing-record');
      // In a session the device has its confirmations already; the host has not stored them.
      if (operation.name === 'send') reached('host-before-confirming');
      return answer;
    });
    unconnected.close();
    around(RecordTable.prototype, 'add', (add, ...record) => {
      add(...record);
      reached('host-after-storing-record');
    });
  },

  async server() {
    const { SqlStatisticsLog } = await built('server/dist/statistics-log.js');
    const { Ledger } = await built('server/dist/ledger.js');
    around(SqlStatisticsLog.prototype, 'append', async (append, ...items) => {
      const outcomes = await append(...items);
      if (outcomes.some(({ outcome }) => outcome === 'appended')) reached('server-after-append');
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
      return booked;
    });
    await aroundTransactions('DeliveryFollower.deliver', 'server-before-delivery-cursor');
  },

  async authority() {
    await aroundTransactions('SqlStore.intake', 'authority-before-storing', ({ decision }) => {
      if (decision.records.length > 0) reached('authority-before-granting');
    });
  },

  async 'cryptographic-device'() {
    const { Authentication } = await built('cryptographic-device/dist/authentication.js');
    around(Authentication.prototype, 'authenticate', async (authenticate, records, only) => {
      const attested = await authenticate(records, only);
      if (attested.some(({ ok }) => ok)) reached('cryptographic-device-after-attesting');
      return attested;
    });
    around(Authentication.prototype, 'confirm', async (confirm, items) => {
      const confirmed = await confirm(items);
      if (confirmed.some(({ ok }) => ok)) reached('cryptographic-device-after-confirming');
      return confirmed;
    });
  },
};

/** A commit that fails, and leaves nobody certain of what lies on the disk. */
function failOrdered(commit, ...step) {
  const point = 'psd-write-failed';
  let written;
  try {
    written = readFileSync(order, 'utf8') === `${point} 2`;
  } catch {
    return;
  }
  if (written) writeFileSync(order, `${point} 1`);
  if (!isOrdered(point)) return;
  if (written) commit(...step);
  throw new Error(`a write failed, by order; ${written ? 'all' : 'nothing'} of it is on the disk`);
}

/** A point before the transactions that the method `asker` begins, and what is done after each. */
async function aroundTransactions(asker, before, after = () => undefined) {
  const { SqlDatabase } = await built('sql/dist/database.js');
  around(SqlDatabase.prototype, 'transaction', async (transaction, ...work) => {
    if (!new Error('asked').stack.includes(asker)) return transaction(...work);
    reached(before);
    const value = await transaction(...work);
    after(value);
    return value;
  });
}

if (isMainThread) await PLACES[party]();
