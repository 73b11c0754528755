/**
 * How a store says that a key is on a token: by its name there, behind a word with which no PKCS8 begins.
 */
export const REFERENCE = 'pkcs11:';

export function isReference(stored: Uint8Array): boolean {
  return Buffer.from(stored.subarray(0, REFERENCE.length)).toString('latin1') === REFERENCE;
}
