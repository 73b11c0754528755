/**
 * The people at the lines: they frank one mailing after the other, ask again when nothing answers, pay in when funds are short, close
 * what a lost disk left open, and fetch what the device needs to be unlocked.
 *
 * Guarantees that a mailing is asked for until the host says that it is done: what a host forgets is not forgotten here.
 */
import { Fault } from '@countermark/node-platform/fault';
import { HOST, type HostOperation, jsonFromCbor, jsonToCbor } from '@countermark/protocol/interfaces/host';
import type { Rejection } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { lazyRpc } from './machine/rpc.ts';
import { hostSocket, type LineSetting, OPERATOR, SERVER_URL } from './parties.ts';
import { CallBroken } from './network.ts';
import type { Mailing } from './workload.ts';
import type { World } from './world.ts';

/** How long a person waits before asking again. */
const AGAIN_MS = 240_000;

export class Mailer {
  readonly line: LineSetting;
  readonly mailings: readonly Mailing[];
  /** Mailings of which the host said that they are done. */
  readonly done = new Set<string>();
  /** Mailings that were begun and are not done. */
  readonly begun = new Set<string>();
  readonly #world: World;
  readonly #random;
  /** Told where the device may not be able to go on: it is older than its journal, or another has asked in its name. */
  onHopeless: (code: string) => void = () => undefined;
  /** The line has ended: nothing more is franked here. */
  retired = false;
  #deposits = 0;
  #lastTrouble = '';

  constructor(world: World, line: LineSetting, mailings: readonly Mailing[]) {
    this.#world = world;
    this.line = line;
    this.mailings = mailings;
    this.#random = world.stream(`mailer ${line.line}`);
  }

  get finished(): boolean {
    return this.retired || this.done.size === this.mailings.length;
  }

  /** Why it goes no further, in the last words it heard. */
  get trouble(): string {
    return this.#lastTrouble;
  }

  /** Franks the mailings, each at its time. */
  async work(startMs: readonly number[]): Promise<void> {
    for (const [i, mailing] of this.mailings.entries()) {
      await this.#rest((startMs[i] ?? 0) - this.#world.scheduler.nowMs);
      if (this.retired) return;
      this.#world.files.write(mailing.file, mailing.content);
      await this.#frank(mailing);
    }
  }

  /** Asks the host. Null where it does not answer. */
  async ask<P, A, E>(operation: HostOperation<P, A, E>, parameters: P, timeoutMs = 600_000): Promise<Result<A> | null> {
    try {
      const said = await lazyRpc(hostSocket(this.line.line)).call(operation.name, jsonToCbor(parameters), {
        timeoutMs,
      });
      if (!said.ok) return said;
      const json = jsonFromCbor(said.value);
      return json.ok ? accept(json.value as A) : json;
    } catch (error) {
      if (!(error instanceof Fault || error instanceof CallBroken)) throw error;
      this.#lastTrouble = error.message;
      return null;
    }
  }

  async #frank(mailing: Mailing): Promise<void> {
    const { file, job, mailingDate } = mailing;
    // Sometimes the last batch stays open, for pieces to be declared spoiled.
    const keepOpen = this.#random.chance(0.3);
    this.begun.add(job);
    let again = 1;
    for (;;) {
      if (this.retired) return;
      const answer = await this.ask(HOST.frank, { file, job, mailingDate, ...(keepOpen ? { keepOpen } : {}) });
      if (answer?.ok === true) {
        const { state, rejection } = answer.value;
        if (state === 'done') {
          if (keepOpen && !(await this.#spoilAndClose(job))) continue;
          break;
        }
        if (rejection !== undefined) await this.#helped(rejection);
      } else if (answer !== null) await this.#helped(answer.rejection);
      // Each time a little later: most of what stands in the way takes its time.
      again = Math.min(again * 1.4, 20);
      await this.#rest(this.#random.whole(1, AGAIN_MS) * again);
    }
    this.begun.delete(job);
    this.done.add(job);
  }

  /** Declares some pieces of the open batch spoiled and closes it; false where that has to be asked again. */
  async #spoilAndClose(job: string): Promise<boolean> {
    const batches = await this.ask(HOST.batches, { job });
    if (batches?.ok !== true) return false;
    const open = batches.value.batches.find(({ state }) => state === 'open');
    if (open === undefined) return true;
    if (open.firstPieceNumber !== null && open.spoiled === 0 && this.#random.chance(0.7)) {
      const number = open.firstPieceNumber + this.#random.whole(0, open.pieces - 1);
      const spoiled = await this.ask(HOST.spoil, { numbers: [String(number)] });
      if (spoiled?.ok === true) this.#world.count('pieces spoiled');
    }
    const closed = await this.ask(HOST.close, {});
    if (closed === null || !closed.ok) {
      if (closed !== null) await this.#helped(closed.rejection);
      return false;
    }
    return true;
  }

  #rest(ms: number): Promise<void> {
    const { scheduler, people } = this.#world;
    return new Promise((resolve) => {
      scheduler.after(ms, people, `the mailer of line ${this.line.line} rested`, resolve);
    });
  }

  /** What a person does about a refusal. */
  async #helped(refused: Pick<Rejection, 'code' | 'detail'>): Promise<void> {
    this.#lastTrouble = refused.code;
    this.#world.count(`mailer heard: ${refused.code}`);
    switch (refused.code) {
      case 'insufficient-funds':
      case 'not-available':
        await this.#payIn();
        {
          const amountMills = String(this.#random.whole(20, 200) * 1_000);
          const refilled = await this.ask(HOST.refill, { amountMills });
          // Its store was put back: to before a request, or to before a rotation.
          const code = refilled?.ok === false ? refilled.rejection.code : '';
          if (code === 'funds-request-conflict' || code === 'superseded-key') this.onHopeless(code);
        }
        return;
      case 'batch-open':
      case 'journal-damaged':
        // The host's disk is gone, and with it what it knew of the batch: it is closed without its cells.
        await this.ask(HOST.close, { incomplete: true });
        return;
      case 'device-locked':
      case 'memory-full': {
        // The words of the refusal say so.
        if (String(refused.detail['lifts'] ?? '').startsWith('Close the open batch')) await this.ask(HOST.close, {});
        const sent = await this.ask(HOST.send, {});
        // A restored server may have forgotten the fork: the host has not.
        if (sent?.ok === true && sent.value.waiting.some(({ reason }) => reason === 'fork')) this.onHopeless('fork');
        return;
      }
      case 'device-older':
      case 'funds-request-conflict':
        this.onHopeless(refused.code);
        return;
      default:
    }
  }

  async #payIn(): Promise<void> {
    this.#deposits += 1;
    const deposit = {
      licensee: this.line.licensee,
      amountMills: 200_000n,
      key: `line-${this.line.line}-${this.#deposits}`,
    };
    this.#world.deposits.push(deposit);
    try {
      await this.#world.network.remote(SERVER_URL, 'deposit', { credential: OPERATOR, ...deposit });
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
    }
  }

  /** What was refused again and again is sent once more: whoever looks after the host sees it in quarantine. */
  async sendQuarantined(): Promise<void> {
    const answer = await this.ask(HOST.statistics, {});
    if (answer?.ok === true && answer.value.records.some(({ state }) => state === 'quarantined')) {
      await this.ask(HOST.send, {});
    }
  }

  /** Of a device that has ended: its open batch is closed, and everything sent. */
  async reportTheRest(): Promise<void> {
    const closed = await this.ask(HOST.close, {});
    if (closed?.ok === false && closed.rejection.code !== 'no-open-batch')
      await this.ask(HOST.close, { incomplete: true });
    await this.sendQuarantined();
  }

  /** Whether the host has nothing outstanding any more. */
  async settled(): Promise<boolean> {
    await this.sendQuarantined();
    const answer = await this.ask(HOST.wait, { timeoutMs: 1 });
    if (answer?.ok !== true) return false;
    const { outcome, pending } = answer.value;
    this.#lastTrouble = `${outcome}: ${pending.map(({ what, reason }) => `${what} ${reason}`).join(', ')}`;
    if (outcome === 'blocked' && pending.some(({ what }) => what === 'pieces' || what === 'batch')) {
      // A host that was put back goes on with what it had forgotten to be done when it is asked again.
      for (const { file, job, mailingDate } of this.mailings) {
        const answer = await this.ask(HOST.frank, { file, job, mailingDate });
        const refused = answer?.ok === false ? answer.rejection : answer?.value.rejection;
        if (refused !== undefined) await this.#helped(refused);
      }
    }
    // Confirmed, and the device has never had it: its store was put back, which its host says to whoever franks.
    if (pending.some(({ reason }) => reason === 'unknown-record')) this.onHopeless('device-older');
    // It was put back while it was being closed, or to before a rotation; or another has asked for funds in its name.
    for (const code of ['device-older', 'funds-request-conflict', 'superseded-key']) {
      if (pending.some(({ reason }) => reason === code)) this.onHopeless(code);
    }
    return outcome === 'settled' || (outcome === 'blocked' && pending.every(({ what }) => what === 'record'));
  }
}
