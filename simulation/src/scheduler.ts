/**
 * Virtual time: what happens next, and to whom.
 *
 * Guarantees: events happen in the order of their times, those of one time in the order in which they were made; an event
 * of a process that has ended does not happen; before the next event everything that the last one set in motion has come to
 * rest (all promises are settled or wait for a later event). So whatever code runs between two events belongs to the
 * first one's process.
 */
import { setImmediate as turn } from 'node:timers';

/** Whose event it is. One that is not alive any more has no further events. */
export type Owner = { readonly name: string; readonly alive: boolean };

type Event = {
  readonly atMs: number;
  readonly order: number;
  readonly owner: Owner;
  readonly what: string;
  readonly run: () => void;
  cancelled: boolean;
};

/** Takes an event back. */
export type Cancel = () => void;

export class Scheduler {
  #nowMs: number;
  #order = 0;
  #heap: Event[] = [];
  #running: Owner | undefined;
  #happened = 0;
  readonly #onEvent: (what: string, owner: Owner, atMs: number) => void;

  /** `onEvent` is told of each event before it happens. */
  constructor(startMs: number, onEvent: (what: string, owner: Owner, atMs: number) => void = () => undefined) {
    this.#nowMs = startMs;
    this.#onEvent = onEvent;
  }

  /** Virtual milliseconds since 1970-01-01 UTC. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** Events that have happened. */
  get happened(): number {
    return this.#happened;
  }

  /** The time of the next event, or undefined where none is to come. */
  get nextMs(): number | undefined {
    return this.#heap[0]?.atMs;
  }

  /** Whose event is happening. @throws Error between events: then something moved that no event had set in motion. */
  get running(): Owner {
    if (this.#running === undefined) throw new Error('an effect outside of any event');
    return this.#running;
  }

  /** Has it happen in `delayMs`. */
  after(delayMs: number, owner: Owner, what: string, run: () => void): Cancel {
    const event: Event = {
      atMs: this.#nowMs + Math.max(0, delayMs),
      order: (this.#order += 1),
      owner,
      what,
      run,
      cancelled: false,
    };
    this.#push(event);
    return () => {
      event.cancelled = true;
    };
  }

  /** Does the next event and waits for what it sets in motion; false where there is none up to `untilMs`. */
  async next(untilMs = Infinity): Promise<boolean> {
    for (;;) {
      const event = this.#heap[0];
      if (event === undefined || event.atMs > untilMs) return false;
      this.#pop();
      if (event.cancelled || !event.owner.alive) continue;
      this.#nowMs = event.atMs;
      this.#happened += 1;
      this.#onEvent(event.what, event.owner, event.atMs);
      this.#running = event.owner;
      event.run();
      // Promises and next ticks are all done before the loop comes to this.
      await new Promise<void>((resolve) => turn(resolve));
      this.#running = undefined;
      return true;
    }
  }

  /** Lets time pass to a moment before the next event. */
  passTo(atMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, Math.min(atMs, this.nextMs ?? atMs));
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Event;
      if (!before(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1] as Event, heap[child] as Event)) child += 1;
      if (!before(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
  }
}

function before(one: Event, other: Event): boolean {
  return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order);
}
