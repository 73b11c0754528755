/**
 * The authority's grant key in software: a file of mode 0600 in the authority's data folder, made durably at the first
 * start. Whoever reads that file or this process' memory can grant: it is called unsafe at every start, and an HSM takes
 * its place behind the port `GrantSigner`.
 *
 * It gives way to another when whoever has the folder says so (`rotateGrantKey`), and certifies that one: whoever trusts the first key goes on. Every
 * step is durable before the next, and a rotation that was cut off is gone on with: the new private key (`.next`), the certificate beside those
 * before it (`.certificates`: from here on the new key is the one), the new private key in the place of the old one, which is gone with that.
 */
import { mkdir, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode } from '@countermark/node-platform/fault';
import { writePrivateFile } from '@countermark/node-platform/private-file';
import {
  generateSigningKey,
  importPrivateKey,
  privateKeyBytes,
  publicKeyBytes,
  signP1363,
} from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { CARRIED_MAX, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { sameBytes } from '@countermark/protocol/digest';
import { hex, unhex } from '@countermark/protocol/id';
import { unsealedMessage } from '@countermark/protocol/message';
import { GRANTING_CERTIFICATE } from '@countermark/protocol/messages/granting-certificate';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { GrantSigner } from './grant.ts';

/** Written on stderr at every start. */
export const UNSAFE_AUTHORITY_KEYS =
  'UNSAFE_AUTHORITY_KEYS: the key that signs grants is a file and not in an HSM; whoever reads it can grant money.';

type PrivateKey = ReturnType<typeof importPrivateKey>;
/** The public parts of all keys, by their epochs from 1, and the certificates of all but the first. */
type Succession = { readonly publicKeys: readonly Uint8Array[]; readonly certificates: readonly Uint8Array[] };

/**
 * Opens the key, made at the first start. Rejection: `store-damaged`, where a file is no key, or another one than the certificates
 * name: a new one would not be the one that others trust.
 */
export async function openSoftwareGrantKey(path: string): Promise<Result<GrantSigner>> {
  const kept = await readKey(path);
  if (!kept.ok) return kept;
  if (kept.value === null) {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writePrivateFile(path, privateKeyBytes(generateSigningKey().privateKey));
    return openSoftwareGrantKey(path);
  }
  let key = kept.value;
  const read = await readSuccession(path, publicKeyBytes(key));
  if (!read.ok) return read;
  const { publicKeys, certificates } = read.value;
  const newest = publicKeys.at(-1) as Uint8Array;
  if (!sameBytes(publicKeyBytes(key), newest)) {
    // Certified, and not yet in its place.
    const next = await readKey(nextPath(path));
    if (!next.ok) return next;
    if (next.value === null || !sameBytes(publicKeyBytes(next.value), newest)) {
      return damaged(path, 'it is not the key that the newest certificate names');
    }
    await rename(nextPath(path), path);
    key = next.value;
  }
  return accept({
    epoch: publicKeys.length,
    publicKey: newest,
    certificates,
    keys: keysOf(publicKeys),
    sign: (bytes) => Promise.resolve(signP1363(key, bytes)),
  });
}

/**
 * Makes the next key and destroys the one in use, which certifies it. Grants that were signed before stay good. Asked again it makes
 * another one. Rejections: those of opening; `limit-exceeded`: what it signs could not carry more certificates.
 */
export async function rotateGrantKey(path: string, nowMs: number): Promise<Result<GrantSigner>> {
  const opened = await openSoftwareGrantKey(path);
  if (!opened.ok) return opened;
  const { epoch, certificates, sign, keys } = opened.value;
  if (certificates.length >= CARRIED_MAX) {
    return refuse(
      rejection('limit-exceeded', {
        what: 'the number of granting keys after the first',
        value: String(certificates.length + 1),
        limit: String(CARRIED_MAX),
      }),
    );
  }
  const begun = await readKey(nextPath(path));
  if (!begun.ok) return begun;
  const next = begun.value ?? generateSigningKey().privateKey;
  if (begun.value === null) await writePrivateFile(nextPath(path), privateKeyBytes(next));
  const value = { epoch: epoch + 1, publicKey: publicKeyBytes(next), issuedAtMs: nowMs };
  const unsealed = unsealedMessage(GRANTING_CERTIFICATE, 'signature', { holder: 'granting', epoch }, value);
  const certificate = seal(unsealed, await sign(toBeAuthenticated(unsealed)));
  const first = keys({ holder: 'granting', epoch: 1 })?.publicKey ?? new Uint8Array(0);
  const succession = { first: hex(first), certificates: [...certificates, certificate].map(hex) };
  await writePrivateFile(certificatesPath(path), `${JSON.stringify(succession, null, 2)}\n`);
  return openSoftwareGrantKey(path);
}

function nextPath(path: string): string {
  return `${path}.next`;
}

/** The first key's public part and the certificates of all others. */
export function certificatesPath(path: string): string {
  return `${path}.certificates`;
}

/** A private key, or null where there is no such file. */
async function readKey(path: string): Promise<Result<PrivateKey | null>> {
  const bytes = await readIfThere(path);
  if (bytes === null) return accept(null);
  try {
    return accept(importPrivateKey(bytes));
  } catch {
    return damaged(path, 'it holds no P-256 private key');
  }
}

/** Each key certified by the one before it; of the first only the public part is left. */
async function readSuccession(path: string, only: Uint8Array): Promise<Result<Succession>> {
  const bytes = await readIfThere(certificatesPath(path));
  if (bytes === null) return accept({ publicKeys: [only], certificates: [] });
  const broken = (reason: string): Result<never> => damaged(certificatesPath(path), reason);
  const kept = successionIn(bytes);
  if (kept === null) return broken('it does not hold the first key and the certificates of the others');
  const publicKeys = [kept.first];
  for (const certificate of kept.certificates) {
    const verified = verifyMessage(GRANTING_CERTIFICATE, certificate, {
      port: nodeVerification,
      keys: keysOf(publicKeys),
    });
    if (!verified.ok || verified.value.message.epoch !== publicKeys.length + 1) {
      return broken(`the certificate of the key of epoch ${publicKeys.length + 1} is none of the key before it`);
    }
    publicKeys.push(verified.value.message.publicKey);
  }
  return accept({ publicKeys, certificates: kept.certificates });
}

function successionIn(bytes: Uint8Array): { first: Uint8Array; certificates: readonly Uint8Array[] } | null {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return null;
  }
  const { first, certificates } = (json ?? {}) as { readonly first?: unknown; readonly certificates?: unknown };
  const bytesIn = (text: unknown): Uint8Array | null => (typeof text === 'string' ? unhex(text) : null);
  const key = bytesIn(first);
  if (key === null || !Array.isArray(certificates) || certificates.length > CARRIED_MAX) return null;
  const read = certificates.map(bytesIn).filter((one) => one !== null);
  return read.length === certificates.length && read.length > 0 ? { first: key, certificates: read } : null;
}

function keysOf(publicKeys: readonly Uint8Array[]): KeySource {
  return ({ holder, epoch }) => {
    const publicKey = holder === 'granting' ? publicKeys[epoch - 1] : undefined;
    return publicKey === undefined ? null : { publicKey, authentication: 'signature' };
  };
}

async function readIfThere(path: string): Promise<Uint8Array | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return null;
    throw error;
  }
}

function damaged(store: string, reason: string): Result<never> {
  return refuse(rejection('store-damaged', { store, reason }));
}
