/**
 * The keys of the trust bundle file, as the host checks what comes to it.
 */
import { readFileSync } from 'node:fs';
import { errorText } from '@countermark/node-platform/fault';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import type { KeySource } from '@countermark/verify/verified';

/** Reads the file. Rejection: `config-invalid`. */
export function readTrustKeys(path: string): Result<KeySource> {
  const broken = (reason: string): Result<never> => refuse(rejection('config-invalid', { file: path, reason }));
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    return broken(errorText(error));
  }
  const bundle = parseTrustBundle(text);
  return bundle.ok ? accept(trustedKeys(bundle.value)) : broken(`${String(bundle.rejection.detail.path)} is wrong`);
}
