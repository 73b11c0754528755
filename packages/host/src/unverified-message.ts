/**
 * Messages that the host reads without checking who signed them: it plans and reports by them, and believes nothing.
 *
 * Guarantees the form only. Whoever acts on a message (the PSD, or `verifyMessage` before it is archived) checks its signature.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import { type MessageType, parsePayload } from '@countermark/protocol/message';
import type { Result } from '@countermark/protocol/result';

/** The payload of these bytes. Rejections: those of `parseEnvelope` and `parsePayload`. */
export function readUnverified<T>(of: MessageType<T>, bytes: Uint8Array): Result<T> {
  const envelope = parseEnvelope(bytes);
  return envelope.ok ? parsePayload(of, envelope.value) : envelope;
}
