/**
 * Rate limits: credentials that are refused, by address and by name; requests, by credential. Counted by `@fastify/rate-limit`.
 *
 * Guarantees: bounded memory (the least recently used go first); a credential that this process knows to be good is never refused for what others
 * try under its name or from its address; routes by which hosts hand in records, grants and funds requests are not counted, so that a burst
 * after days without a network is taken, within the bounds that those routes have of their own.
 * Counts for one process and since its start. Behind a proxy all addresses are the proxy's: its own limits stand there.
 */
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import rateLimit, { normalizeIP } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Limits } from './limits.ts';
import { Refusal } from './refusal.ts';
import type { Caller } from './role.ts';

const WINDOW_SECONDS = 60;
/** Entries a minute that refused credentials make in the audit trail: anyone can send some. */
const TOLD_PER_WINDOW = 10;

/** By which hosts hand in what they have; each is bounded by what it takes at once, or by what devices have signed. */
const UNCOUNTED: ReadonlySet<string> = new Set([
  'POST /v1/records',
  'POST /v1/archived-records',
  'POST /v1/archived-certificates',
  'POST /v1/funds-requests',
  'POST /v1/archived-funds-grants',
]);

/** Told when a limit of refused credentials is first passed: `address` or `name`, and which. */
export type OnRefusals = (kind: 'address' | 'name', which: string) => Promise<void>;

type Count = { readonly isOver: boolean; readonly isFirstOver: boolean; readonly seconds: number };

export class RateLimits {
  readonly #limits: Limits;
  readonly #onRefusals: OnRefusals;
  readonly #failures: (key: string, max: number, count: boolean) => Promise<Count>;
  readonly #requests: (key: string, max: number, count: boolean) => Promise<Count>;

  private constructor(app: FastifyInstance, limits: Limits, onRefusals: OnRefusals) {
    this.#limits = limits;
    this.#onRefusals = onRefusals;
    this.#failures = counter(app);
    this.#requests = counter(app);
  }

  static async of(app: FastifyInstance, limits: Limits, onRefusals: OnRefusals): Promise<RateLimits> {
    await app.register(rateLimit, { global: false });
    return new RateLimits(app, limits, onRefusals);
  }

  /** Before a credential is verified that is not known to be good. @throws Refusal `too-many-requests` */
  async beforeVerifying(address: string, name: string): Promise<void> {
    for (const [kind, key, max] of this.#keys(address, name)) {
      const { isOver } = await this.#failures(`${kind} ${key}`, max, false);
      const refusal = isOver ? await this.#failed(kind, key, max) : null;
      if (refusal !== null) throw new Refusal(refusal);
    }
  }

  /** A credential, of that name if it has one, was refused. @throws Refusal `too-many-requests` where that is too often */
  async refused(address: string, name: string | null): Promise<void> {
    const refusals: (Rejection | null)[] = [];
    for (const [kind, key, max] of this.#keys(address, name)) refusals.push(await this.#failed(kind, key, max));
    const refusal = refusals.find((one) => one !== null);
    if (refusal !== undefined) throw new Refusal(refusal);
  }

  /** Counts one; what to answer where it is one too many. */
  async #failed(kind: 'address' | 'name', key: string, max: number): Promise<Rejection | null> {
    const { isOver, isFirstOver, seconds } = await this.#failures(`${kind} ${key}`, max, true);
    if (isFirstOver && !(await this.#failures('told', TOLD_PER_WINDOW, true)).isOver) await this.#onRefusals(kind, key);
    return isOver ? tooMany('refused credentials', max, seconds) : null;
  }

  /** A caller asks. @throws Refusal `too-many-requests` */
  async asked({ actor }: Caller, route: string): Promise<void> {
    if (UNCOUNTED.has(route)) return;
    const max = actor.kind === 'person' ? this.#limits.requestsPerPerson : this.#limits.requestsPerMachine;
    const { isOver, seconds } = await this.#requests(`${actor.kind} ${actor.name}`, max, true);
    if (isOver) throw new Refusal(tooMany('requests with one credential', max, seconds));
  }

  #keys(address: string, name: string | null): (readonly ['address' | 'name', string, number])[] {
    const { failuresPerAddress, failuresPerName } = this.#limits;
    // Of IPv6 the network: its addresses are one's own to choose.
    const ofAddress = ['address', normalizeIP(address), failuresPerAddress] as const;
    return name === null ? [ofAddress] : [ofAddress, ['name', name, failuresPerName]];
  }
}

function tooMany(what: string, limit: number, retryAfterSeconds: number): Rejection {
  return rejection('too-many-requests', { what, limit, windowSeconds: WINDOW_SECONDS, retryAfterSeconds });
}

/** Counts keys of its own; `count` false only looks. */
function counter(app: FastifyInstance): (key: string, max: number, count: boolean) => Promise<Count> {
  const limiter = app.createRateLimit({
    timeWindow: WINDOW_SECONDS * 1_000,
    // Tells the first one beyond the limit from those that follow.
    ban: 1,
    max: (asked) => (asked as unknown as Counted).max,
    keyGenerator: (asked) => (asked as unknown as Counted).key,
  });
  return async (key, max, count) => {
    // The limiter takes requests, of which it asks no more than this: a connection that becomes a session is none.
    const asked: Counted = { key, max, routeOptions: {} };
    const counted = await limiter(asked as unknown as FastifyRequest, { increment: count });
    if (counted.isAllowed) return { isOver: false, isFirstOver: false, seconds: 0 };
    const left = counted.max - counted.remaining;
    // Looking, the limit is reached with the last one that was counted.
    const isOver = count ? counted.isExceeded : left >= counted.max;
    return {
      isOver,
      isFirstOver: count && counted.isExceeded && !counted.isBanned,
      seconds: Math.max(1, counted.ttlInSeconds),
    };
  };
}

type Counted = { readonly key: string; readonly max: number; readonly routeOptions: object };
