/**
 * The device as one pure, synchronous function: state and input to state and effects, or a rejection (design, section 5).
 *
 * Guarantees: no clock, randomness, storage or key is reached from here; all of them come with the input. What came from
 * outside and matters comes as `Verified<T>` only. The given state is never changed; the same state in the answer means
 * that what was asked had been done before.
 * A chunk is the one input whose answer is needed in two halves: `franking.ts` has both, and this function joins them.
 */
import type { Digest } from '@countermark/protocol/digest';
import type { Software } from '@countermark/protocol/fields';
import type { BatchId } from '@countermark/protocol/id';
import type { BatchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import type { Confirmation } from '@countermark/protocol/messages/confirmation';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import type { FundsGrant } from '@countermark/protocol/messages/funds';
import type { Policy, SignedTime } from '@countermark/protocol/messages/policy';
import type { Mills } from '@countermark/protocol/money';
import { accept, refuse } from '@countermark/protocol/result';
import type { Verified } from '@countermark/verify/verified';
import { initialise, install, installPolicy, setTime } from './enrolment.ts';
import { makeFinalStatement } from './final-statement.ts';
import { type AdmittedChunk, closeBatch, frankChunk, openBatch, spoilPieces } from './franking.ts';
import { bookFunds, requestFunds } from './funds.ts';
import { refusedIn } from './lifecycle.ts';
import { type HostRecords, recountFromHost, recountOwn } from './recount.ts';
import { beginRotation, rotateKeys } from './rotation.ts';
import { confirmRecord, sealBatch } from './sealing.ts';
import type { DeviceState, Identity, KeptChunk } from './state.ts';
import type { Ports, Stepped } from './transition.ts';

export type Input =
  | { readonly kind: 'initialise'; readonly identity: Identity }
  | {
      readonly kind: 'install';
      readonly certificate: Verified<DeviceCertificate>;
      readonly policy: Verified<Policy>;
    }
  | { readonly kind: 'policy'; readonly policy: Verified<Policy> }
  | { readonly kind: 'time'; readonly time: Verified<SignedTime> }
  | { readonly kind: 'open'; readonly declaration: BatchDeclaration; readonly usedBefore: boolean }
  | { readonly kind: 'frank'; readonly admitted: AdmittedChunk; readonly salts: Uint8Array }
  | { readonly kind: 'spoil'; readonly batch: BatchId; readonly pieceNumbers: readonly number[] }
  | { readonly kind: 'close'; readonly batch: BatchId; readonly reprints: number }
  | { readonly kind: 'recount'; readonly records: HostRecords }
  | { readonly kind: 'recount-own'; readonly batch: BatchId; readonly chunk: KeptChunk }
  | { readonly kind: 'seal'; readonly batch: BatchId; readonly incomplete: boolean; readonly software: Software }
  | {
      readonly kind: 'confirm';
      readonly confirmation: Verified<Confirmation>;
      readonly confirmedDigest: Digest | null;
    }
  /** `next`: this device with new keys, which the shell has made. */
  | { readonly kind: 'begin-rotation'; readonly next: Identity }
  | { readonly kind: 'rotate'; readonly certificate: Verified<DeviceCertificate> }
  | { readonly kind: 'end'; readonly software: Software }
  | { readonly kind: 'request-funds'; readonly amountMills: Mills }
  | { readonly kind: 'book-funds'; readonly grant: Verified<FundsGrant> };

/** One step. Rejections: `wrong-state` by the table of states, and those of the function that each input is handed to. */
export function step(state: DeviceState, input: Input, ports: Ports): Stepped {
  const refused = refusedIn(state, input.kind);
  if (refused !== null) return refuse(refused);
  switch (input.kind) {
    case 'initialise':
      return initialise(state, input.identity);
    case 'install':
      return install(state, input.certificate, input.policy);
    case 'policy':
      return installPolicy(state, input.policy);
    case 'time':
      return setTime(state, input.time);
    case 'open':
      return openBatch(state, input.declaration, input.usedBefore);
    case 'frank': {
      const franked = frankChunk(state, input.admitted, input.salts, ports);
      return accept({
        state: franked.state,
        effects: [{ kind: 'keep-chunk', chunk: franked.chunk, codes: franked.codes }],
      });
    }
    case 'spoil':
      return spoilPieces(state, input.batch, input.pieceNumbers);
    case 'close':
      return closeBatch(state, input.batch, input.reprints);
    case 'recount':
      return recountFromHost(state, input.records, ports);
    case 'recount-own':
      return recountOwn(state, input.batch, input.chunk, ports);
    case 'seal':
      return sealBatch(state, input.batch, input.incomplete, input.software, ports);
    case 'confirm':
      return confirmRecord(state, input.confirmation, input.confirmedDigest);
    case 'begin-rotation':
      return beginRotation(state, input.next);
    case 'rotate':
      return rotateKeys(state, input.certificate, ports);
    case 'end':
      return makeFinalStatement(state, input.software, ports);
    case 'request-funds':
      return requestFunds(state, input.amountMills);
    case 'book-funds':
      return bookFunds(state, input.grant);
  }
}
