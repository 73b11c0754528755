/**
 * The authority's grant key in software: a file of mode 0600 in the authority's data folder, made durably at the first
 * start. Whoever reads that file or this process' memory can grant: it is called unsafe at every start, and an HSM takes
 * its place behind the port `GrantSigner`.
 */
import { mkdir, readFile } from 'node:fs/promises';
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
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { GrantSigner } from './grant.ts';

/** Written on stderr at every start. */
export const UNSAFE_AUTHORITY_KEYS =
  'UNSAFE_AUTHORITY_KEYS: the key that signs grants is a file and not in an HSM; whoever reads it can grant money.';

/**
 * Opens the key, made at the first start. Rejection: `store-damaged`, where the file is no key: a new one would not be
 * the one that others trust.
 */
export async function openSoftwareGrantKey(path: string): Promise<Result<GrantSigner>> {
  let pkcs8: Uint8Array;
  try {
    pkcs8 = await readFile(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    pkcs8 = privateKeyBytes(generateSigningKey().privateKey);
    await writePrivateFile(path, pkcs8);
  }
  try {
    const key = importPrivateKey(pkcs8);
    return accept({
      epoch: 1,
      publicKey: publicKeyBytes(key),
      sign: (bytes) => Promise.resolve(signP1363(key, bytes)),
    });
  } catch {
    return refuse(rejection('store-damaged', { store: path, reason: 'it holds no P-256 private key' }));
  }
}
