/**
 * Secrets that stand in a text, in any form in which somebody would write them: as they are, as hex, as base64, in either alphabet.
 *
 * Guarantees to find a secret that stands there whole, or its first half: what is cut is no excuse. Does not find one that was transformed.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** A secret by what it is called. */
export type Secret = { readonly name: string; readonly value: string | Uint8Array };

/** The names of the secrets that stand in the text. */
export function secretsIn(text: string, secrets: readonly Secret[]): string[] {
  const lower = text.toLowerCase();
  return secrets
    .filter(({ value }) => formsOf(value).some((form) => lower.includes(form.slice(0, form.length / 2).toLowerCase())))
    .map(({ name }) => name);
}

/** Private P-256 keys that lie in files below the folder, in PKCS#8 or SEC1, in a file of their own or in a database. */
export function privateKeysBelow(folder: string): Secret[] {
  // ECPrivateKey of RFC 5915: version 1, then 32 bytes.
  const before = Buffer.from('0201010420', 'hex');
  const found = new Map<string, Secret>();
  for (const file of filesBelow(folder)) {
    const bytes = readFileSync(file);
    for (let at = bytes.indexOf(before); at >= 0; at = bytes.indexOf(before, at + 1)) {
      const value = Uint8Array.from(bytes.subarray(at + before.length, at + before.length + 32));
      found.set(Buffer.from(value).toString('hex'), {
        name: `a private key in ${file.slice(folder.length + 1)}`,
        value,
      });
    }
  }
  return [...found.values()];
}

/** Every file below a folder; sockets and the like are none. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((file) => statSync(file).isFile());
}

function formsOf(value: string | Uint8Array): string[] {
  if (typeof value === 'string' && !/^([0-9a-f]{2})+$/i.test(value)) return [value];
  const bytes = typeof value === 'string' ? Buffer.from(value, 'hex') : Buffer.from(value);
  return [bytes.toString('hex'), bytes.toString('base64'), bytes.toString('base64url'), JSON.stringify([...bytes])];
}
