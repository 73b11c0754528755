/**
 * The codes of the rejection catalogue that can occur in a world, so that a run can say which of them never did.
 *
 * Left out are those that only something outside of a world meets; each stands here with what meets it.
 */
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';

const FILES = 'files of people, at the command line and in the host’s own tests';
const COMMANDS = 'the command line';
const STARTS = 'starts with a configuration or store that is wrong: tests/bad-input, tests/loop/check';

const PEOPLE = 'people and their credentials, which a world has not: tests/contract/server-people';

/** By what meets them. */
const OUTSIDE: Readonly<Record<string, string>> = {
  'file-unreadable': FILES,
  'file-encoding': FILES,
  'file-empty': FILES,
  'file-columns': FILES,
  'file-structure': FILES,
  'file-rows': FILES,
  'unknown-grant': COMMANDS,
  'unknown-job': COMMANDS,
  'unknown-batch': COMMANDS,
  usage: COMMANDS,
  'not-running': COMMANDS,
  'mac-needs-attestation': 'countermark verify, without an attestation',
  'config-invalid': STARTS,
  'insecure-address': STARTS,
  'memory-too-small': STARTS,
  'store-in-use': STARTS,
  'session-clock': 'X.509 dates; sessions of a world have none',
  'store-put-back': 'PSDs with a token, which a world has not: tests/contract/psd-keys',
  'identity-refused': 'X.509 certificates of devices, which a world has not: tests/loop/identity',
  'cbor-too-deep': 'HTTP bodies and sockets: values cross a world as they are',
  'unknown-licensee': 'HTTP routes that a world has not',
  'idempotency-conflict': 'HTTP headers',
  'second-person-dependent': PEOPLE,
  'person-exists': PEOPLE,
  'unknown-person': PEOPLE,
  'too-many-requests': PEOPLE,
  'ceremony-cancelled': 'no officer of a world cancels: tests/contract/server-key-ceremonies.test.ts',
  'ceremony-confirmed': 'the same',
  'ceremony-conflict': 'a server that asks for another role than before: tests/contract/server-key-ceremonies',
};

/** All that a world can meet. */
export const REACHABLE_CODES: readonly string[] = Object.keys(CATALOGUE).filter(
  (code) => !Object.hasOwn(OUTSIDE, code),
);
