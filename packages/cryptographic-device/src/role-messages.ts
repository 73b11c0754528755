/**
 * Messages that the cryptographic device itself signs, many at a time, each by the key of its role.
 *
 * Guarantees that a message is signed only under the role that its type names, by the key in use, and carries that key's certificates.
 * Does not decide whether it may be signed.
 */
import { seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { type CertifiedRole, type MessageType, unsealedMessage } from '@countermark/protocol/message';
import type { RoleKeys } from './role-keys.ts';

/** Signs each value as a message of the type; the bytes in order. @throws TypeError for a type of another party. */
export async function signMessages<T>(
  keys: RoleKeys,
  of: MessageType<T>,
  values: readonly T[],
): Promise<readonly Uint8Array[]> {
  const role = roleOf(of);
  return keys.using(role, async ({ epoch, certificates }, sign) => {
    const unsealed = values.map((value) => unsealedMessage(of, 'signature', { holder: role, epoch }, value));
    const signatures = await sign(unsealed.map(toBeAuthenticated));
    return unsealed.map((message, index) => seal(message, signatures[index] ?? new Uint8Array(0), certificates));
  });
}

/** Signs one value. */
export async function signMessage<T>(keys: RoleKeys, of: MessageType<T>, value: T): Promise<Uint8Array> {
  const [message] = await signMessages(keys, of, [value]);
  if (message === undefined) throw new TypeError('one value gave no message');
  return message;
}

function roleOf(of: MessageType<unknown>): CertifiedRole {
  switch (of.authenticatedBy) {
    case 'issuing':
    case 'confirming':
    case 'attesting':
    case 'funds':
    case 'policy':
      return of.authenticatedBy;
    case 'granting':
    case 'device':
      throw new TypeError(`a ${of.type} is not this party's to sign`);
  }
}
