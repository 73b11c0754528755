/**
 * Stands in for the verifying threads: the same verdicts, made here.
 */
import type { SignatureCheck } from '@countermark/cryptographic-device/key-store';
import { nodeVerification } from '@countermark/node-platform/verification';

export class VerifyWorkers {
  async verify(checks: readonly SignatureCheck[]): Promise<readonly boolean[]> {
    return checks.map(({ publicKey, input, signature }) =>
      nodeVerification.verifySignature(publicKey, input, signature),
    );
  }

  async close(): Promise<void> {
    // No thread to end.
  }
}
