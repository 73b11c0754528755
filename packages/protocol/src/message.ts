/**
 * What a message is: a type, a version, a schema, and who authenticates it.
 *
 * Guarantees that a payload is encoded and parsed by the schema of its type and version only. An unknown version is
 * its own answer and is given before the payload is looked at.
 */
import { type Authentication, type Envelope, type KeyId, type Unsealed, unsealed } from './cose.ts';
import { type Rejection, rejection } from './rejection.ts';
import { type Result, refuse } from './result.ts';
import { encodeWith, parseBytes, type Schema } from './schema.ts';

/** Roles that hold a signature key of their own; each a holder in key ids. */
export const ROLES = ['issuing', 'confirming', 'attesting', 'funds', 'policy', 'granting'] as const;
export type Role = (typeof ROLES)[number];

/** Roles of the cryptographic device, whose keys its issuing key certifies; granting is the postal authority's and never among them. */
export const CERTIFIED_ROLES = ['issuing', 'confirming', 'attesting', 'funds', 'policy'] as const;
export type CertifiedRole = (typeof CERTIFIED_ROLES)[number];
/**
 * Keys of the cryptographic device that give way to others: its roles', and two that authenticate no message. A device's certificate names
 * those two as they were when it was issued.
 */
export const ROTATED_KEYS = [...CERTIFIED_ROLES, 'agreement', 'session-authority'] as const;
export type RotatedKey = (typeof ROTATED_KEYS)[number];
/** Keys that each can have, one after the other: a trust bundle holds all of the roles'. */
export const ROLE_EPOCHS_MAX = 64;

export type MessageType<T> = {
  readonly type: string;
  readonly version: number;
  readonly schema: Schema<T>;
  /** Who authenticates it: the device itself, or the role that does. */
  readonly authenticatedBy: Role | 'device';
  /** One sentence for its page. */
  readonly purpose: string;
};

/** The message ready to be authenticated. */
export function unsealedMessage<T>(of: MessageType<T>, authentication: Authentication, key: KeyId, value: T): Unsealed {
  return unsealed(authentication, of.type, of.version, key, encodeWith(of.schema, value));
}

/** Whether the envelope says that it is of this type and version. Rejections: `wrong-type`, `unsupported-version`. */
export function checkType<T>(of: MessageType<T>, envelope: Envelope): Rejection | null {
  if (envelope.type !== of.type) return rejection('wrong-type', { expected: of.type, type: envelope.type });
  if (envelope.version !== of.version) {
    return rejection('unsupported-version', { type: of.type, version: envelope.version, supported: of.version });
  }
  return null;
}

/** Parses the payload of an envelope of this type. Rejections: `wrong-type`, `unsupported-version`, those of the schema. */
export function parsePayload<T>(of: MessageType<T>, envelope: Envelope): Result<T> {
  const wrong = checkType(of, envelope);
  return wrong === null ? parseBytes(of.schema, envelope.payload) : refuse(wrong);
}
