/**
 * Who asks: by the configured credentials, a licensee's host's, or a person's.
 *
 * Guarantees: configured and host credentials are 32 random bytes, compared by their SHA-256 in constant time; people's are
 * `people.ts`. Nothing of a credential leaves this file.
 */
import { timingSafeEqual } from 'node:crypto';
import { rejection } from '@countermark/protocol/rejection';
import { type OperatorCredential, FIRST_OPERATOR } from './config.ts';
import type { People } from './people.ts';
import { Refusal } from './refusal.ts';
import { credentialHash, type Registry } from './registry.ts';
import { BOOTSTRAP_ROLES, type Caller, CONFIGURED_ROLES } from './role.ts';

export type CallerParts = {
  readonly registry: Registry;
  readonly people: People;
  readonly operatorCredential: string;
  readonly operators: readonly OperatorCredential[];
};

/** Who keeps count of refused credentials; either may throw instead of a refusal as `unauthorised`. */
export type Watch = {
  /** Before a person's credential is verified that is not known to be good. */
  readonly beforeVerifying: (name: string) => Promise<void>;
  /** `name` is whose credential it claims to be, where it names one. */
  readonly refused: (name: string | null) => Promise<void>;
};
const UNWATCHED: Watch = { beforeVerifying: async () => undefined, refused: async () => undefined };

export class Callers {
  readonly #parts: CallerParts;
  readonly #configured: readonly { readonly hash: Buffer; readonly caller: Caller }[];

  /** @throws TypeError for a configured credential that is none */
  constructor(parts: CallerParts) {
    this.#parts = parts;
    const first = { name: FIRST_OPERATOR, credential: parts.operatorCredential };
    this.#configured = [first, ...parts.operators].map(({ name, credential }) => {
      const hash = Buffer.from(credentialHash(credential) ?? '', 'hex');
      if (hash.length === 0) throw new TypeError('an operator credential is not 32 bytes in hex');
      const isFirst = name === FIRST_OPERATOR;
      const caller: Caller = {
        actor: { kind: isFirst ? 'bootstrap' : 'configured', name },
        roles: isFirst ? BOOTSTRAP_ROLES : CONFIGURED_ROLES,
        licensee: null,
        customer: null,
      };
      return { hash, caller };
    });
  }

  /** Who has sent this header. @throws Refusal `unauthorised`, `try-again`, and what the watch throws */
  async of(authorization: string | undefined, watch = UNWATCHED): Promise<Caller> {
    const [, machine, person] =
      /^Bearer (?:([0-9a-f]{64})|([a-z0-9-]{1,32}\.[0-9a-f]{64}))$/i.exec(authorization ?? '') ?? [];
    const caller =
      machine !== undefined
        ? await this.#ofMachine(machine)
        : person !== undefined
          ? await this.#ofPerson(person, watch)
          : null;
    if (caller === null) {
      await watch.refused(person?.replace(/\..*$/, '') ?? null);
      throw new Refusal(rejection('unauthorised', {}));
    }
    return caller;
  }

  async #ofMachine(credential: string): Promise<Caller | null> {
    const hash = Buffer.from(credentialHash(credential) ?? '', 'hex');
    const known = this.#configured.find((one) => hash.length === one.hash.length && timingSafeEqual(hash, one.hash));
    if (known !== undefined) return known.caller;
    const licensee = await this.#parts.registry.licenseeOf(credential);
    return licensee === null
      ? null
      : { actor: { kind: 'host', name: licensee }, roles: ['host'], licensee, customer: null };
  }

  async #ofPerson(credential: string, { beforeVerifying }: Watch): Promise<Caller | null> {
    const person = await this.#parts.people.of(credential, beforeVerifying);
    if (person === null) return null;
    const { name, role, licensee, customer } = person;
    return { actor: { kind: 'person', name }, roles: [role], licensee, customer };
  }
}
