/**
 * Calls between processes: over local sockets, which only break, and over networks, which lose, double, delay, reorder, cut and
 * alter.
 *
 * Guarantees: a handler runs in its own process's event, an answer arrives in an event of the caller's; a process that ends
 * breaks the calls in flight to it, and hears no answer itself; nothing waits for ever (a call without an answer times out).
 * Who may be reached at all is decided by partitions, one way or both.
 */
import { machine } from './machine/machine.ts';
import type { RandomStream } from './random-stream.ts';
import type { Cancel, Scheduler } from './scheduler.ts';
import { SimulatedProcess } from './process.ts';

/** What is served at an address. Its process gets the calls. */
export type Service = {
  readonly process: SimulatedProcess;
  handle(operation: string, parameters: unknown, caller: string): Promise<unknown>;
};

/** Why a call had no answer. */
export type Broken = 'not-running' | 'broken' | 'timed-out';

export class CallBroken extends Error {
  readonly why: Broken;
  constructor(why: Broken, address: string) {
    super(`the call to ${address} was ${why}`);
    this.why = why;
  }
}

/** What may happen to a message on a network; probabilities. */
export type NetworkFaults = {
  lost: number;
  doubled: number;
  /** Delayed by minutes to days. */
  late: number;
  /** One bit altered on the way. */
  altered: number;
  /** An old request comes once more, from long ago. */
  replayed: number;
  /** A local socket breaks under a call. */
  localBroken: number;
};

export const NO_NETWORK_FAULTS: NetworkFaults = {
  lost: 0,
  doubled: 0,
  late: 0,
  altered: 0,
  replayed: 0,
  localBroken: 0,
};

const NETWORK_TIMEOUT_MS = 30_000;
const DAY_MS = 86_400_000;
/** Requests kept for a replay. */
const OLD_MAX = 24;

type Old = { readonly address: string; readonly operation: string; readonly parameters: unknown };
type Flight = { readonly to: SimulatedProcess; readonly broken: () => void };

/** What crosses a boundary: told when an answer leaves its process, whatever becomes of it then. */
export type Crossing = {
  readonly address: string;
  readonly process: SimulatedProcess;
  readonly operation: string;
  readonly parameters: unknown;
  readonly answer: unknown;
};

export class Network {
  /** Told of every answer that leaves a process. */
  onAnswer: (crossing: Crossing) => void = () => undefined;
  faults: NetworkFaults = { ...NO_NETWORK_FAULTS };
  /** Directions that do not carry: `from>to` by process name. */
  readonly partitions = new Set<string>();
  /** Extra milliseconds before an address answers. */
  readonly slowness = new Map<string, number>();
  readonly #services = new Map<string, Service>();
  readonly #flights = new Set<Flight>();
  readonly #old: Old[] = [];
  readonly #scheduler: Scheduler;
  readonly #random: RandomStream;
  readonly #count: (what: string) => void;

  constructor(scheduler: Scheduler, random: RandomStream, count: (what: string) => void) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#count = count;
  }

  serve(address: string, service: Service): void {
    this.#services.set(address, service);
  }

  service(address: string): Service | undefined {
    const service = this.#services.get(address);
    return service?.process.alive === true ? service : undefined;
  }

  /** Ends the calls in flight to a process. */
  ended(process: SimulatedProcess): void {
    for (const flight of [...this.#flights]) if (flight.to === process) flight.broken();
  }

  /** A call over a local socket: delivered in order, once, or the connection breaks. */
  local(address: string, operation: string, parameters: unknown, timeoutMs = NETWORK_TIMEOUT_MS): Promise<unknown> {
    const breaks = this.#random.chance(this.faults.localBroken);
    if (breaks) this.#count('local socket broken');
    const afterwards = breaks && this.#random.chance(0.5);
    return this.#call(address, operation, parameters, {
      latencyMs: 0.05,
      timeoutMs,
      requestLost: breaks && !afterwards ? 'broken' : null,
      answerLost: afterwards ? 'broken' : null,
    });
  }

  /** A call over a network. `altered` gives the message with one bit changed; absent: an altered one is dropped by TLS. */
  remote(address: string, operation: string, parameters: unknown): Promise<unknown> {
    const from = ownerName();
    const to = this.#services.get(address)?.process.name ?? address;
    const { lost, doubled, late, altered, replayed } = this.faults;
    const chance = (what: string, probability: number): boolean => {
      const happens = this.#random.chance(probability);
      if (happens) this.#count(what);
      return happens;
    };
    const cut = (one: string, other: string): boolean => {
      const is = this.partitions.has(`${one}>${other}`);
      if (is) this.#count('partitioned');
      return is;
    };
    const requestLost = cut(from, to) || chance('request lost', lost);
    const answerLost = cut(to, from) || chance('answer lost', lost);
    const lateMs = chance('request late', late) ? this.#random.fraction() ** 3 * 5 * DAY_MS : 0;
    const given = chance('request altered', altered) ? oneBitOff(parameters, this.#random) : parameters;
    this.#old.push({ address, operation, parameters });
    if (this.#old.length > OLD_MAX) this.#old.splice(this.#random.whole(0, OLD_MAX - 1), 1);
    if (chance('request doubled', doubled))
      this.#again({ address, operation, parameters }, this.#random.whole(1, 2_000));
    if (chance('old request replayed', replayed)) {
      this.#again(this.#random.pick(this.#old), this.#random.whole(1, 60_000));
    }
    return this.#call(
      address,
      operation,
      given,
      {
        latencyMs: this.#random.whole(2, 40) + lateMs,
        timeoutMs: NETWORK_TIMEOUT_MS,
        requestLost: requestLost ? 'timed-out' : null,
        answerLost: answerLost ? 'timed-out' : null,
      },
      (answer) => (chance('answer altered', altered) ? oneBitOff(answer, this.#random) : answer),
    );
  }

  /** A first message over the bytes that a host relays: it may be lost, and TLS lets nothing else through. */
  wire(address: string, operation: string, parameters: unknown): Promise<unknown> {
    return this.#call(address, operation, parameters, this.#relayed(address));
  }

  /** A call within a session, to whoever serves it. */
  session(
    service: Service,
    address: string,
    operation: string,
    parameters: unknown,
    timeoutMs = NETWORK_TIMEOUT_MS,
  ): Promise<unknown> {
    this.#services.set(address, service);
    return this.#call(address, operation, parameters, { ...this.#relayed(address), timeoutMs });
  }

  #relayed(address: string) {
    const { lost, late } = this.faults;
    const breaks = this.#random.chance(lost + late);
    if (breaks) this.#count('session broken');
    const afterwards = breaks && this.#random.chance(0.5);
    const from = ownerName();
    const to = this.#services.get(address)?.process.name ?? address;
    const cut = this.partitions.has(`${from}>${to}`) || this.partitions.has(`${to}>${from}`);
    return {
      latencyMs: this.#random.whole(2, 40),
      timeoutMs: NETWORK_TIMEOUT_MS,
      requestLost: cut || (breaks && !afterwards) ? ('broken' as const) : null,
      answerLost: afterwards ? ('broken' as const) : null,
    };
  }

  /** A copy of a request arrives, and nobody waits for its answer. */
  #again({ address, operation, parameters }: Old, afterMs: number): void {
    const service = this.service(address);
    if (service === undefined) return;
    this.#scheduler.after(afterMs, service.process, `${operation} once more`, () => {
      service.handle(operation, parameters, 'network').then(
        (answer) => {
          if (service.process.alive) {
            this.onAnswer({ address, process: service.process, operation, parameters, answer });
          }
        },
        () => undefined,
      );
    });
  }

  #call(
    address: string,
    operation: string,
    parameters: unknown,
    options: {
      readonly latencyMs: number;
      readonly timeoutMs: number;
      readonly requestLost: Broken | null;
      readonly answerLost: Broken | null;
    },
    onTheWay: (answer: unknown) => unknown = (answer) => answer,
  ): Promise<unknown> {
    const { latencyMs, timeoutMs, requestLost, answerLost } = options;
    const caller = this.#scheduler.running;
    if (caller instanceof SimulatedProcess) caller.boundary(`before ${operation}`);
    return new Promise((resolve, reject) => {
      let settled = false;
      const flights = new Set<Flight>();
      const settle = (delayMs: number, what: string, run: () => void): void => {
        if (settled) return;
        settled = true;
        giveUp();
        for (const flight of flights) this.#flights.delete(flight);
        this.#scheduler.after(delayMs, caller, what, run);
      };
      const fail = (why: Broken, delayMs: number): void => {
        settle(delayMs, `${operation} ${why}`, () => {
          reject(new CallBroken(why, address));
        });
      };
      let giveUp: Cancel = () => undefined;
      if (timeoutMs > 0) {
        giveUp = this.#scheduler.after(timeoutMs, caller, `${operation} timed out`, () => {
          fail('timed-out', 0);
        });
      }
      const service = this.service(address);
      if (service === undefined) {
        fail('not-running', latencyMs);
        return;
      }
      if (requestLost !== null) {
        if (requestLost === 'broken') fail('broken', latencyMs);
        return;
      }
      const slowMs = this.slowness.get(address) ?? 0;
      const flight: Flight = {
        to: service.process,
        broken: () => {
          fail('broken', 0.05);
        },
      };
      flights.add(flight);
      this.#flights.add(flight);
      this.#scheduler.after(latencyMs + slowMs, service.process, operation, () => {
        const answered = (deliver: () => void, left: () => void = () => undefined): void => {
          if (!service.process.alive) return;
          try {
            service.process.boundary(`before the answer to ${operation}`);
          } catch {
            return;
          }
          left();
          if (answerLost === 'broken') fail('broken', latencyMs);
          if (answerLost !== null) return;
          settle(latencyMs, `answer to ${operation}`, deliver);
        };
        service.handle(operation, parameters, caller.name).then(
          (answer) => {
            const { process } = service;
            answered(
              () => {
                resolve(onTheWay(answer));
              },
              () => {
                this.onAnswer({ address, process, operation, parameters, answer });
              },
            );
          },
          (error: unknown) => {
            answered(() => {
              reject(error instanceof Error ? error : new Error(String(error)));
            });
          },
        );
      });
    });
  }
}

function ownerName(): string {
  return machine().scheduler.running.name;
}

/** The same value with one bit of one of its byte strings changed; the value itself where it has none. */
function oneBitOff(value: unknown, random: RandomStream): unknown {
  const found: { readonly holder: Record<string | number, unknown>; readonly key: string | number }[] = [];
  const copied = copyOf(value, found);
  if (copied instanceof Uint8Array) return flipped(copied, random);
  if (found.length === 0) return value;
  const { holder, key } = random.pick(found);
  holder[key] = flipped(holder[key] as Uint8Array, random);
  return copied;
}

function flipped(bytes: Uint8Array, random: RandomStream): Uint8Array {
  if (bytes.length === 0) return bytes;
  const copy = Uint8Array.from(bytes);
  const at = random.whole(0, copy.length - 1);
  copy[at] = (copy[at] ?? 0) ^ (1 << random.whole(0, 7));
  return copy;
}

function copyOf(value: unknown, found: { holder: Record<string | number, unknown>; key: string | number }[]): unknown {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value;
  const copy: Record<string | number, unknown> | unknown[] = Array.isArray(value) ? [] : {};
  for (const [name, one] of Object.entries(value)) {
    const key = Array.isArray(value) ? Number(name) : name;
    const holder = copy as Record<string | number, unknown>;
    holder[key] = copyOf(one, found);
    if (one instanceof Uint8Array) found.push({ holder, key });
  }
  return copy;
}
