/**
 * The running device: its state, and the one place where steps are made durable before anything leaves it.
 *
 * Guarantees: the state in memory is the state on disk. A step's signing may begin before its commit; nothing is
 * released before both are done; if a commit fails, the new state is dropped, every later request fails, and the process
 * is told to end: what was on disk is found out by the next start. Where keys are on a token, its mark is raised to each commit before anything of
 * that leaves; a token that is away refuses what is asked and ends nothing, and what was committed meanwhile is asked for again. Requests are taken one after the other up to their
 * commit; while signatures of one are made the next may be computed and committed.
 * Does not read requests (`socket.ts`) or speak to the server (`session.ts`).
 */
import { randomBytes } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { errorCode, errorText, Fault } from '@countermark/node-platform/fault';
import { hsmRejection } from '@countermark/node-platform/hsm-access';
import { hmacSha256Under } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import type { Authentication, Unsealed } from '@countermark/protocol/cose';
import type { Software } from '@countermark/protocol/fields';
import { type BatchId, type DeviceId, deviceIdOf } from '@countermark/protocol/id';
import {
  type BatchState,
  CHUNK_ENTRY_BYTES,
  type DeviceStatus,
  type FrankChunk,
  type FrankedChunk,
  RECORD_CODE_BYTES,
} from '@countermark/protocol/interfaces/psd';
import { indiciumInputBytes, LAYOUTS } from '@countermark/protocol/layout';
import { SALT_BYTES } from '@countermark/protocol/merkle';
import type { MessageType } from '@countermark/protocol/message';
import type { BatchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { POLICY, SIGNED_TIME } from '@countermark/protocol/messages/policy';
import type { Mills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseTrustBundle } from '@countermark/verify/trust-bundle';
import { type Trust, type Verified, verifyMessage } from '@countermark/verify/verified';
import { admitChunk } from '../core/franking.ts';
import { AGREEMENT_PEER } from '../core/enrolment.ts';
import { enrolmentRequest, rotationRequest } from '../core/rotation.ts';
import { stateName } from '../core/policy.ts';
import { certificateRequest } from './certificate-request.ts';
import { notEnrolled, type Ports, type Step } from '../core/transition.ts';
import { batchPieces, type DeviceState, type HeldRecord, type Identity, UNINITIALISED } from '../core/state.ts';
import { batchState, deviceStatus } from '../core/status.ts';
import { type Input, step } from '../core/step.ts';
import type { HostRecords } from '../core/recount.ts';
import { Authenticator, signedWith } from './authenticator.ts';
import { tailProblem } from './check.ts';
import { type DeviceMark, isSameMark, NONCE_BYTES as MARK_NONCE_BYTES } from './device-mark.ts';
import type { KeyHolder } from './key-holder.ts';
import { putBackProblem } from './put-back.ts';
import {
  type DeviceKeys,
  type EpochKeys,
  generateEpochKeys,
  generateKeys,
  isAgreeable,
  publicHalves,
  STORE_KEYS,
} from './keys.ts';
import { type Kept, type Loaded, openStore, type PsdStore } from './store.ts';

/** Random bytes that make a request another than the one before. */
const NONCE_BYTES = 16;
/** Chunks of the device's own memory that are recounted before other requests get a turn. */
const RECOUNT_CHUNKS_PER_TURN = 8;

export type DeviceOptions = {
  readonly path: string;
  readonly authentication: Authentication;
  readonly memory: Memory;
  readonly recordCapacity: number;
  /** The text of the trust bundle; pinned at the first start. */
  readonly trustBundle: string;
  readonly software: Software;
  /** Told once when the process must end: a commit or a signing thread failed. */
  readonly onBroken: (fault: unknown) => void;
  /** Where its private keys lie, for its life; default: in the store. */
  readonly keyHolder?: KeyHolder;
  /** Bounds the store; for tests of a full disk. */
  readonly pagesMax?: number;
};

export type Sealed = { readonly sequence: number; readonly digest: HeldRecord['digest']; readonly record: Uint8Array };

/**
 * Opens the device of a store, or initialises one in an empty store.
 * Rejections: `store-in-use`, `store-damaged`, `config-invalid` (procedure, memory, trust bundle or place of the keys other than pinned),
 * `store-put-back`, `hsm-unavailable`, `hsm-refused`.
 */
export function openDevice(options: DeviceOptions): Result<Device> {
  const store = openStore(options);
  if (!store.ok) return store;
  const device = wholeDeviceIn(store.value, options);
  if (!device.ok) store.value.close();
  return device;
}

/**
 * As {@link deviceIn}; damage that shows only when a page is read is the same rejection as damage seen at opening. So is a token that goes away
 * meanwhile.
 */
function wholeDeviceIn(store: PsdStore, options: DeviceOptions): Result<Device> {
  try {
    return deviceIn(store, options);
  } catch (error) {
    const refused = hsmRejection(error, options.keyHolder?.token ?? '');
    if (refused !== null) return refuse(refused);
    if (errorCode(error) !== 'store-broken') throw error;
    return refuse(rejection('store-damaged', { store: options.path, reason: errorText(error) }));
  }
}

function deviceIn(store: PsdStore, options: DeviceOptions): Result<Device> {
  if (!store.initialised) {
    const made = initialise(store, options);
    if (made !== null) return refuse(made);
  }
  const holder = options.keyHolder ?? STORE_KEYS;
  const differs = (reason: string) => refuse(rejection('config-invalid', { file: 'of the device', reason }));
  const { isOnToken } = store;
  if (isOnToken !== null && isOnToken !== (holder.token !== null)) {
    return differs(`the keys are ${isOnToken ? 'on a token' : 'in the store'} for this device's life`);
  }
  const loaded = store.load(options.recordCapacity, holder);
  if (!loaded.ok) return loaded;
  const { identity } = loaded.value;
  if (identity.authentication !== options.authentication) {
    return differs(
      `authentication is ${identity.authentication} for this device's life, not ${options.authentication}`,
    );
  }
  if (identity.memory !== options.memory) {
    return differs(`memory is ${identity.memory} for this device's life, not ${options.memory}`);
  }
  if (store.pinnedBundle() !== options.trustBundle) {
    return differs('the trust bundle is not the one that was pinned at the first start');
  }
  const problem = tailProblem(store, loaded.value);
  if (problem !== null) return refuse(rejection('store-damaged', { store: options.path, reason: problem }));
  const putBack = putBackProblem(loaded.value, holder, options.path);
  if (putBack !== null) return refuse(putBack);
  const device = new Device(store, loaded.value, options);
  device.catchUp();
  return accept(device);
}

function initialise(store: PsdStore, options: DeviceOptions): Rejection | null {
  const bundle = parseTrustBundle(options.trustBundle);
  if (!bundle.ok) return bundle.rejection;
  const device = deviceIdOf(randomBytes(8));
  const { keyHolder: holder = STORE_KEYS } = options;
  const keys = generateKeys(holder, device);
  const identity: Identity = {
    device,
    epoch: 1,
    authentication: options.authentication,
    memory: options.memory,
    ...publicHalves(keys),
  };
  const state = { ...UNINITIALISED, recordCapacity: options.recordCapacity };
  const initialised = step(state, { kind: 'initialise', identity }, portsOf(keys));
  if (!initialised.ok) return initialised.rejection;
  const { state: first } = initialised.value;
  const mark = holder.marks === null ? null : markAfter(null, first);
  // The mark of a device that has no store yet is nobody's.
  if (mark !== null) holder.marks?.raise(device, null, mark);
  store.initialise(identity, keys, options.trustBundle, first, mark);
  return null;
}

/** The mark of the next commit. */
function markAfter(before: DeviceMark | null, { registers, sequence }: DeviceState): DeviceMark {
  const { pieces, ascendingMills } = registers;
  const nonce = new Uint8Array(randomBytes(MARK_NONCE_BYTES));
  return { commits: (before?.commits ?? 0) + 1, nonce, sequence, pieces, ascendingMills };
}

/** Without keys nothing is recounted any more. */
function portsOf(keys: DeviceKeys | null): Ports {
  if (keys === null) {
    const gone = (): never => {
      throw new Error('The keys of this device are erased.');
    };
    return { sha256, recordCode: gone };
  }
  const code = hmacSha256Under(keys.record);
  return { sha256, recordCode: (bytes) => code(bytes).subarray(0, RECORD_CODE_BYTES) };
}

export class Device {
  readonly #store: PsdStore;
  readonly #holder: KeyHolder;
  readonly #trust: Trust;
  #ports: Ports;
  readonly #software: Software;
  readonly #onBroken: (fault: unknown) => void;
  #state: DeviceState;
  /** Null once they are erased. */
  #keys: DeviceKeys | null;
  #nextKeys: EpochKeys | null;
  #identity: Identity;
  /** Of the last commit, and the last that the token is known to keep; null where nothing keeps any. */
  #mark: DeviceMark | null;
  #kept: DeviceMark | null;
  /** Keys that the store has no more are on the token yet. */
  #erasing: boolean;
  #authenticator: Authenticator | null;
  /** Threads of a former epoch that finish what they have in hand. */
  #retiring: Promise<void> = Promise.resolve();
  #broken: Fault | undefined;

  /** Use `openDevice`. */
  constructor(
    store: PsdStore,
    { state, keys, nextKeys, identity, mark, trust }: Loaded,
    options: Pick<DeviceOptions, 'software' | 'onBroken' | 'keyHolder'>,
  ) {
    this.#store = store;
    this.#holder = options.keyHolder ?? STORE_KEYS;
    this.#state = state;
    this.#keys = keys;
    this.#nextKeys = nextKeys;
    this.#identity = identity;
    this.#mark = mark;
    this.#kept = this.#holder.marks?.last(identity.device) ?? null;
    // Whatever a crash left.
    this.#erasing = this.#holder.token !== null;
    this.#trust = trust;
    this.#ports = portsOf(keys);
    this.#authenticator = keys === null ? null : new Authenticator(keys, identity, state.certificate?.message ?? null);
    this.#software = options.software;
    this.#onBroken = options.onBroken;
  }

  get id(): DeviceId {
    return this.#identity.device;
  }

  /** The label of the token that has the keys, or null. */
  get token(): string | null {
    return this.#holder.token;
  }

  /**
   * Resolves when something can be asked: the token is there, and keeps what the store has. Faults: `hsm-unavailable`, `hsm-refused`,
   * `device-broken`.
   */
  async ready(): Promise<void> {
    await this.#holder.ready();
    this.#checkWhole();
    this.catchUp();
  }

  /**
   * Raises the token's mark to the last commit and has it erase the keys that the store has no more: nothing of that commit may leave before.
   * Faults: those of the holder.
   */
  catchUp(): void {
    const { marks } = this.#holder;
    if (marks !== null && this.#mark !== null && (this.#kept === null || !isSameMark(this.#kept, this.#mark))) {
      try {
        marks.raise(this.#identity.device, this.#kept, this.#mark);
      } catch (error) {
        throw this.#holderFailed(error);
      }
      this.#kept = this.#mark;
    }
    if (!this.#erasing) return;
    this.#holder.keepOnly(this.#identity.device, this.#store.keyReferences());
    this.#erasing = false;
  }

  /** The session's private key, its certificate and the authority of the other end's (DER). Rejection: `wrong-state`. */
  sessionCredentials(): Result<{
    readonly privateKey: DeviceKeys['session'];
    readonly certificate: Uint8Array;
    readonly authority: Uint8Array;
  }> {
    const certificate = this.#state.certificate?.message;
    if (certificate === undefined) return refuse(notEnrolled(this.#state, 'send'));
    if (this.#keys === null) return refuse(this.#erased('send'));
    const { sessionCertificate, sessionAuthority } = certificate;
    return accept({ privateKey: this.#keys.session, certificate: sessionCertificate, authority: sessionAuthority });
  }

  status(): DeviceStatus {
    this.#checkWhole();
    return deviceStatus(this.#state, this.#software);
  }

  /** A request to be enrolled, signed with the key that it asks a certificate for. Each has a new nonce. Rejection: `wrong-state`. */
  enrolmentRequest(): Result<Uint8Array> {
    return this.#keys === null
      ? refuse(this.#erased('enrolment-request'))
      : accept(signedWith(this.#keys.signing, this.#enrolmentRequestOf(this.#identity)));
  }

  /** A PKCS#10 request for an X.509 certificate of the signature key in use, with the digest of an enrolment code. Rejection: `wrong-state`. */
  certificateRequest(codeDigest?: Uint8Array): Result<Uint8Array> {
    return this.#keys === null
      ? refuse(this.#erased('certificate-request'))
      : accept(certificateRequest(this.#identity.device, this.#keys.signing, codeDigest));
  }

  /**
   * Makes the keys of the next epoch, durable before this returns, or takes those that wait; and asks a certificate for them,
   * signed with the new key and inside a message that the key in use signs.
   * Rejections: those of the core's `beginRotation`.
   */
  rotateBegin(): Result<{
    readonly epoch: number;
    readonly request: Uint8Array;
    readonly certificateRequest: Uint8Array;
  }> {
    const waiting = this.#state.nextIdentity;
    const { device, epoch } = this.#identity;
    // No keys are made where the core would refuse them.
    const refused =
      waiting === null
        ? this.#refusal({ kind: 'begin-rotation', next: { ...this.#identity, epoch: epoch + 1 } })
        : null;
    if (refused !== null) return refuse(refused);
    const nextKeys = waiting === null ? generateEpochKeys(this.#holder, device, epoch + 1) : null;
    const begun = this.#advance(
      { kind: 'begin-rotation', next: waiting ?? this.#identityWith(nextKeys) },
      nextKeys === null ? {} : { nextKeys },
    );
    if (!begun.ok) return begun;
    const next = begun.value.state.nextIdentity;
    if (next === null || this.#nextKeys === null || this.#keys === null) {
      throw new Error('A rotation that has begun has its keys.');
    }
    const request = signedWith(this.#nextKeys.signing, this.#enrolmentRequestOf(next));
    return accept({
      epoch: next.epoch,
      request: signedWith(this.#keys.signing, rotationRequest(this.#identity, request)),
      certificateRequest: certificateRequest(device, this.#nextKeys.signing),
    });
  }

  /**
   * Goes over to the keys that wait: record under the old ones, certificate, epoch and keys in one commit. Asked again it answers
   * the same record as long as that is held; then `already-confirmed`.
   * Rejections: those of `verifyMessage` and of the core's `rotateKeys`.
   */
  rotate(certificateBytes: Uint8Array): Result<Sealed & { readonly epoch: number }> {
    return this.#certified(certificateBytes, (certificate) => {
      const rotated = this.#advance({ kind: 'rotate', certificate });
      if (!rotated.ok) return rotated;
      const { epoch } = this.#identity;
      const made = rotated.value.kept.record;
      if (made !== undefined) {
        return accept({ epoch, sequence: made.sequence, digest: this.#state.head, record: made.bytes });
      }
      const stored = this.#store.lastRotation();
      if (stored === null) {
        return refuse(rejection('enrolment-mismatch', { type: 'device-certificate', what: 'key epoch' }));
      }
      const { sequence, digest, record } = stored;
      return record === null
        ? refuse(rejection('already-confirmed', { sequence }))
        : accept({ epoch, sequence, digest, record });
    });
  }

  /** Installs certificate and policy. Rejections: those of `verifyMessage` and of the core's `install`. */
  install(certificateBytes: Uint8Array, policyBytes: Uint8Array): Result<DeviceStatus> {
    return this.#certified(certificateBytes, (certificate) =>
      this.#verified(POLICY, policyBytes, (policy) => this.#statusAfter({ kind: 'install', certificate, policy })),
    );
  }

  policy(bytes: Uint8Array): Result<DeviceStatus> {
    return this.#verified(POLICY, bytes, (policy) => this.#statusAfter({ kind: 'policy', policy }));
  }

  signedTime(bytes: Uint8Array): Result<DeviceStatus> {
    return this.#verified(SIGNED_TIME, bytes, (time) => this.#statusAfter({ kind: 'time', time }));
  }

  openBatch(declaration: BatchDeclaration): Result<BatchState> {
    const usedBefore = this.#store.recordOf(declaration.batch) !== null;
    return this.#batchAfter({ kind: 'open', declaration, usedBefore });
  }

  /** Franks a chunk, or answers one of the last again. */
  async frankChunk(request: FrankChunk): Promise<Result<FrankedChunk>> {
    this.#checkWhole();
    const admission = admitChunk(this.#state, request, this.#ports);
    if (!admission.ok) return admission;
    if (admission.value.kind === 'again') {
      const { chunk, inputs, codes } = admission.value.repeated;
      const signing = this.#authenticate(inputs);
      const { registers } = this.#state;
      return accept(this.#franked(chunk.firstPieceNumber, inputs, await signing, chunk.salts, codes, registers));
    }
    const { admitted } = admission.value;
    // From here the threads sign while this one makes leaves and codes and commits.
    const signing = this.#authenticate(admitted.inputs);
    // If the commit fails nobody waits for them any more.
    signing.catch(() => undefined);
    const salts = randomBytes((SALT_BYTES * request.pieces.length) / CHUNK_ENTRY_BYTES);
    const franked = this.#advance({ kind: 'frank', admitted, salts });
    if (!franked.ok) return franked;
    const [kept] = franked.value.effects;
    if (kept?.kind !== 'keep-chunk') throw new Error('Franking keeps its chunk.');
    const { registers } = franked.value.state;
    const { chunk, codes } = kept;
    return accept(this.#franked(chunk.firstPieceNumber, admitted.inputs, await signing, salts, codes, registers));
  }

  spoil(batch: BatchId, pieceNumbers: readonly number[]): Result<BatchState> {
    return this.#batchAfter({ kind: 'spoil', batch, pieceNumbers });
  }

  closeBatch(batch: BatchId, reprints: number): Result<BatchState> {
    return this.#batchAfter({ kind: 'close', batch, reprints });
  }

  recount(records: HostRecords): Result<BatchState> {
    return this.#batchAfter({ kind: 'recount', records });
  }

  /** Seals a closed batch. Asked again it answers the same record as long as that is held; then `already-confirmed`. */
  async seal(batch: BatchId, incomplete: boolean): Promise<Result<Sealed>> {
    if (this.#identity.memory === 'psd' && !incomplete) {
      const refused = await this.#recountOwn(batch);
      if (refused !== null) return refuse(refused);
    }
    this.#checkWhole();
    this.catchUp();
    const stored = this.#store.recordOf(batch);
    if (stored !== null) {
      const { sequence, digest, record } = stored;
      return record === null
        ? refuse(rejection('already-confirmed', { sequence }))
        : accept({ sequence, digest, record });
    }
    const sealed = this.#advance({ kind: 'seal', batch, incomplete, software: this.#software });
    if (!sealed.ok) return sealed;
    const { record } = sealed.value.kept;
    if (record === undefined) throw new Error('Sealing keeps its record.');
    return accept({ sequence: record.sequence, digest: this.#state.head, record: record.bytes });
  }

  /**
   * Ends the device: gives its funds back and seals its final statement. Asked again it answers the same record as long as that is
   * held; then `already-confirmed`. Rejections: those of the core's `makeFinalStatement`.
   */
  finalStatement(): Result<Sealed> {
    const ended = this.#advance({ kind: 'end', software: this.#software });
    if (!ended.ok) return ended;
    const made = ended.value.kept.record;
    const { sequence, head: digest } = this.#state;
    if (made !== undefined) return accept({ sequence, digest, record: made.bytes });
    const stored = this.record(sequence);
    return stored.ok ? accept({ sequence, digest, record: stored.value }) : stored;
  }

  /** The records that are not confirmed, ascending. */
  records(): readonly HeldRecord[] {
    this.#checkWhole();
    return this.#state.unconfirmed;
  }

  /** The bytes of an unconfirmed record. Rejections: `unknown-record`, `already-confirmed`. */
  record(sequence: number): Result<Uint8Array> {
    this.#checkWhole();
    this.catchUp();
    const stored = this.#store.recordAt(sequence);
    if (stored === null) return refuse(rejection('unknown-record', { sequence }));
    return stored.record === null ? refuse(rejection('already-confirmed', { sequence })) : accept(stored.record);
  }

  /** Verifies a confirmation and deletes the record that it names. */
  confirm(bytes: Uint8Array): Result<{ readonly sequence: number; readonly digest: HeldRecord['digest'] }> {
    return this.#verified(CONFIRMATION, bytes, (confirmation) => {
      const { sequence, digest } = confirmation.message;
      const stored = this.#store.recordAt(sequence);
      const confirmedDigest = stored?.record === null ? stored.digest : null;
      const confirmed = this.#advance({ kind: 'confirm', confirmation, confirmedDigest });
      if (!confirmed.ok) return confirmed;
      const alarm = confirmed.value.effects.find((effect) => effect.kind === 'alarm');
      return alarm === undefined ? accept({ sequence, digest }) : refuse(alarm.rejection);
    });
  }

  /** Asks for funds; while a request is pending, the same bytes again. */
  fundsRequest(amountMills: Mills): Result<{ readonly number: number; readonly request: Uint8Array }> {
    const asked = this.#advance({ kind: 'request-funds', amountMills });
    if (!asked.ok) return asked;
    const request = asked.value.kept.fundsRequest ?? this.#store.pendingFundsRequest();
    const number = this.#state.pendingFunds?.number;
    if (request === null || number === undefined) throw new Error('A pending request is in the store.');
    return accept({ number, request });
  }

  fundsGrant(bytes: Uint8Array): Result<DeviceStatus> {
    return this.#verified(FUNDS_GRANT, bytes, (grant) => this.#statusAfter({ kind: 'book-funds', grant }));
  }

  /** Ends threads and store. */
  async close(): Promise<void> {
    this.#broken ??= new Fault('device-closed', 'the device is being closed', { retry: 'later' });
    await this.#authenticator?.close();
    await this.#retiring;
    this.#store.close();
  }

  /** Why a step would not be taken, or null. */
  #refusal(input: Input): Rejection | null {
    const stepped = step(this.#state, input, this.#ports);
    return stepped.ok ? null : stepped.rejection;
  }

  /** One step, carried out: signed, durable, and only then the device's state. */
  #advance(input: Input, given: Kept = {}): Result<Step & { readonly kept: Kept }> {
    this.#checkWhole();
    this.catchUp();
    const before = this.#state;
    const stepped = step(before, input, this.#ports);
    if (!stepped.ok) return stepped;
    const { state, effects } = stepped.value;
    const mark = this.#mark === null ? null : markAfter(this.#mark, state);
    const kept: Kept = { ...given, ...this.#keptOf(effects), ...(mark === null ? {} : { mark }) };
    if (state === before && effects.length === 0) return accept({ state, effects, kept });
    if (changesStore(input)) {
      try {
        this.#store.commit(before, state, kept);
      } catch (error) {
        throw this.#break(error);
      }
      this.#mark = mark;
    }
    this.#state = state;
    if (kept.nextKeys !== undefined) this.#nextKeys = kept.nextKeys;
    if (kept.retired !== undefined) this.#changeKeys();
    else if (state.certificate !== before.certificate) this.#renewAuthenticator();
    if (kept.zeroise === true) this.#forgetAllKeys();
    if (kept.retired !== undefined || kept.forgetKeys === true || kept.zeroise === true) {
      this.#erasing = this.#holder.token !== null;
    }
    this.catchUp();
    return accept({ state, effects, kept });
  }

  /** What waited is in use, as the store has it. No batch is open, so nothing new is signed under the old key. */
  #changeKeys(): void {
    const { identity } = this.#state;
    if (identity === null || this.#nextKeys === null || this.#keys === null)
      throw new Error('A rotation has its keys.');
    this.#keys = { ...this.#nextKeys, record: this.#keys.record };
    this.#nextKeys = null;
    this.#identity = identity;
    this.#renewAuthenticator();
  }

  /** With the keys and the certificate that are in use by now. */
  #renewAuthenticator(): void {
    if (this.#keys === null) return;
    this.#retire();
    this.#authenticator = new Authenticator(this.#keys, this.#identity, this.#state.certificate?.message ?? null);
  }

  /** As the store has it: nothing is signed any more. What this process can overwrite in its memory it overwrites. */
  #forgetAllKeys(): void {
    this.#keys?.record.fill(0);
    this.#keys = null;
    this.#nextKeys = null;
    this.#ports = portsOf(null);
    this.#retire();
    this.#authenticator = null;
  }

  #retire(): void {
    this.#retiring = Promise.all([this.#retiring, this.#authenticator?.retire()]).then(() => undefined);
  }

  #erased(operation: string): Rejection {
    return rejection('wrong-state', {
      state: stateName(this.#state),
      operation,
      needs: 'keys, which were erased at its end',
      cure: 'Go on with a new device, enrolled with keys of its own.',
    });
  }

  #authenticatorInUse(): Authenticator {
    if (this.#authenticator === null) throw new Error('A device without keys signs nothing.');
    return this.#authenticator;
  }

  #identityWith(keys: EpochKeys | null): Identity {
    if (keys === null) throw new Error('Keys are made where none wait.');
    return { ...this.#identity, epoch: this.#identity.epoch + 1, ...publicHalves(keys) };
  }

  #enrolmentRequestOf(identity: Identity): Unsealed {
    return enrolmentRequest(identity, this.#software, new Uint8Array(randomBytes(NONCE_BYTES)));
  }

  #keptOf(effects: Step['effects']): Kept {
    let kept: Kept = {};
    for (const effect of effects) {
      switch (effect.kind) {
        case 'keep-chunk':
          kept = { ...kept, chunk: effect.chunk };
          break;
        case 'seal-record': {
          const bytes = this.#authenticatorInUse().message(effect.unsealed);
          kept = { ...kept, record: { sequence: effect.sequence, bytes } };
          break;
        }
        case 'request-funds':
          kept = { ...kept, fundsRequest: this.#authenticatorInUse().message(effect.unsealed) };
          break;
        case 'delete-record':
          kept = { ...kept, deleted: effect };
          break;
        case 'change-keys':
          kept = { ...kept, retired: effect.retired };
          break;
        case 'forget-keys':
          kept = { ...kept, forgetKeys: true };
          break;
        case 'zeroise':
          kept = { ...kept, zeroise: true };
          break;
        case 'alarm':
          break;
      }
    }
    return kept;
  }

  /** Counts the device's own memory up to the end of the batch, in turns. Null when there is nothing (more) to count. */
  async #recountOwn(batchId: BatchId): Promise<Rejection | null> {
    for (let count = 1; ; count += 1) {
      this.#checkWhole();
      const { batch } = this.#state;
      if (batch?.declaration.batch !== batchId || batch.closing === null) return null;
      const next = batch.recount.frontier.leaves;
      const pieces = batchPieces(this.#state, batch);
      if (next === pieces) return null;
      const chunk = this.#store.chunkAt(batchId, next);
      if (chunk === null) {
        return rejection('recount-missing', {
          counted: next,
          franked: pieces,
          pieceNumber: batch.opened.pieces + 1 + next,
        });
      }
      const counted = this.#advance({ kind: 'recount-own', batch: batchId, chunk });
      if (!counted.ok) return counted.rejection;
      if (count % RECOUNT_CHUNKS_PER_TURN === 0) await turn();
    }
  }

  async #authenticate(inputs: Uint8Array): Promise<Uint8Array> {
    const layout = LAYOUTS[this.#identity.authentication];
    try {
      return await this.#authenticatorInUse().indicia(inputs, indiciumInputBytes(layout));
    } catch (error) {
      throw this.#holderFailed(error);
    }
  }

  /** A token that is away ends nothing: what was asked can be asked again. */
  #holderFailed(error: unknown): unknown {
    return hsmRejection(error, '') === null ? this.#break(error) : error;
  }

  #franked(
    firstPieceNumber: number,
    inputs: Uint8Array,
    authenticators: Uint8Array,
    salts: Uint8Array,
    codes: Uint8Array,
    registers: FrankedChunk['registers'],
  ): FrankedChunk {
    // A step after this one may have failed in the meantime: nothing leaves a broken device.
    this.#checkWhole();
    this.catchUp();
    return { firstPieceNumber, indicia: this.#indicia(inputs, authenticators), salts, codes, registers };
  }

  /** Body and authenticator of each indicium, one after the other. */
  #indicia(inputs: Uint8Array, authenticators: Uint8Array): Uint8Array {
    const layout = LAYOUTS[this.#identity.authentication];
    const each = indiciumInputBytes(layout);
    const { bodyBytes, authenticatorBytes } = layout;
    const count = inputs.length / each;
    const indicia = new Uint8Array(count * (bodyBytes + authenticatorBytes));
    for (let i = 0, offset = 0; i < count; i++) {
      indicia.set(inputs.subarray((i + 1) * each - bodyBytes, (i + 1) * each), offset);
      offset += bodyBytes;
      indicia.set(authenticators.subarray(i * authenticatorBytes, (i + 1) * authenticatorBytes), offset);
      offset += authenticatorBytes;
    }
    return indicia;
  }

  /** A certificate that codes can be made under. */
  #certified<A>(bytes: Uint8Array, use: (certificate: Verified<DeviceCertificate>) => Result<A>): Result<A> {
    return this.#verified(DEVICE_CERTIFICATE, bytes, (certificate) =>
      isAgreeable(certificate.message)
        ? use(certificate)
        : refuse(rejection('enrolment-mismatch', { type: DEVICE_CERTIFICATE.type, what: AGREEMENT_PEER })),
    );
  }

  #verified<T, A>(of: MessageType<T>, bytes: Uint8Array, use: (message: Verified<T>) => Result<A>): Result<A> {
    const verified = verifyMessage(of, bytes, this.#trust);
    return verified.ok ? use(verified.value) : verified;
  }

  #statusAfter(input: Input): Result<DeviceStatus> {
    const stepped = this.#advance(input);
    return stepped.ok ? accept(this.status()) : stepped;
  }

  #batchAfter(input: Input): Result<BatchState> {
    const stepped = this.#advance(input);
    if (!stepped.ok) return stepped;
    const { batch } = this.#state;
    if (batch === null) throw new Error('The step has a batch.');
    return accept(batchState(this.#state, batch));
  }

  #checkWhole(): void {
    if (this.#broken !== undefined) throw this.#broken;
  }

  #break(error: unknown): Fault {
    if (this.#broken === undefined) {
      this.#broken = new Fault(
        'device-broken',
        `The device stopped (${errorText(error)}); it starts anew from its store.`,
        {
          retry: 'later',
          cause: error,
        },
      );
      this.#onBroken(error);
    }
    return this.#broken;
  }
}

/** A recount is never stored: it begins again after a restart. */
function changesStore(input: Input): boolean {
  return input.kind !== 'recount' && input.kind !== 'recount-own';
}
