/**
 * An entry of the server's audit trail, and the digest that chains it to the one before.
 *
 * Guarantees that whoever has the entries computes the same digests as the server: SHA-256 over the deterministic CBOR of the entry with
 * the digest before it. A chain shows that something in it was altered, left out or put in; not that it was cut at its end, or
 * written anew as a whole: for that, somebody else keeps a number with its digest.
 */
import { type Digest, digestOf, type Sha256 } from '../digest.ts';
import { digest } from '../fields.ts';
import { encodeWith, field, type Of, oneOf, struct, text, timeMs, uint } from '../schema.ts';

/** Who acted: by the configured first credential, by a further configured one, a person, a licensee's host, or the server by itself. */
export const ACTOR_KINDS = ['bootstrap', 'configured', 'person', 'host', 'server'] as const;
export type ActorKind = (typeof ACTOR_KINDS)[number];

export const AUDIT_WORDS_BYTES = 1_024;

const chainedSchema = struct('audit-entry', {
  previous: field(1, digest),
  number: field(2, uint(undefined, 1)),
  atMs: field(3, timeMs),
  actorKind: field(4, oneOf(...ACTOR_KINDS)),
  actor: field(5, text(64)),
  act: field(6, text(64)),
  subject: field(7, text(64)),
  words: field(8, text(AUDIT_WORDS_BYTES)),
});

/** An entry without what chains it; `subject` is whom or what it is about, `words` are for people. */
export type AuditEntry = Omit<Of<typeof chainedSchema>, 'previous'>;

/** The digest of an entry that follows `previous`, which for the first is `NO_DIGEST`. */
export function auditDigest(entry: AuditEntry, previous: Digest, sha256: Sha256): Digest {
  const { number, atMs, actorKind, actor, act, subject, words } = entry;
  return digestOf(sha256(encodeWith(chainedSchema, { previous, number, atMs, actorKind, actor, act, subject, words })));
}
