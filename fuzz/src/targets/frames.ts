/**
 * Frames and calls over a stream.
 *
 * `frames`: whatever the bytes and however they are cut, exactly the frames that stand in them are delivered, and the channel
 * ends as it should. `rpc`: a served connection answers each request once, under its id, and drops what is none; a caller
 * takes any answer without a fault of its own.
 */
import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import type { Fault } from '@countermark/node-platform/fault';
import { rpcOver, serveRpcOn } from '@countermark/node-platform/rpc';
import { FrameChannel } from '@countermark/node-platform/socket-frames';
import { type CborValue, decode, encode, FRAME_LIMITS } from '@countermark/protocol/cbor';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { mutateCbor } from '../cbor-tree.ts';
import { join, type Mutation } from '../mutation.ts';
import { Random } from '../random.ts';
import { ACCEPTED, must, mustEqual, type Target } from '../target.ts';

/** A stream whose bytes come when they are fed: held back while it is paused, and ended between two events, like a socket. */
class FedStream extends EventEmitter {
  readonly written: Uint8Array[] = [];
  destroyed = false;
  readonly #waiting: Uint8Array[] = [];
  #paused = false;
  #finished = false;
  #closed = false;

  write(bytes: Uint8Array): boolean {
    this.written.push(bytes);
    return true;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
  }

  end(): void {
    // The other side of this stream is the test.
  }

  destroy(): void {
    this.destroyed = true;
  }

  feed(bytes: Uint8Array): void {
    this.#waiting.push(bytes);
    this.flow();
  }

  /** No more bytes come. */
  finish(): void {
    this.#finished = true;
    this.flow();
  }

  /** Tells what is due. */
  flow(): void {
    while (!this.#paused && !this.destroyed) {
      const bytes = this.#waiting.shift();
      if (bytes === undefined) break;
      this.emit('data', Buffer.from(bytes));
    }
    const isOver = this.#finished && !this.#paused && this.#waiting.length === 0;
    if ((!isOver && !this.destroyed) || this.#closed) return;
    this.#closed = true;
    if (!this.destroyed) this.emit('end');
    this.emit('close');
  }

  asDuplex(): Duplex {
    return this as unknown as Duplex;
  }
}

function framed(payload: Uint8Array): Uint8Array {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(payload.length);
  return join(length, payload);
}

/** What stands in the bytes by the definition: frames, and how it ends. */
function framesIn(bytes: Uint8Array, most: number): { readonly frames: Uint8Array[]; readonly end: string } {
  const frames: Uint8Array[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  while (at < bytes.length) {
    if (at + 4 > bytes.length) return { frames, end: 'connection-broken' };
    const length = view.getUint32(at);
    if (length > most) return { frames, end: 'frame-too-large' };
    if (at + 4 + length > bytes.length) return { frames, end: 'connection-broken' };
    frames.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return { frames, end: ACCEPTED };
}

const FRAME_MAX = 300;

/** Feeds the bytes in pieces and pauses now and then, both as the seed says. */
function feed(stream: FedStream, bytes: Uint8Array, random: Random, pause: () => void): void {
  const most = random.pick([1, 3, 16, 4_096]);
  for (let at = 0; at < bytes.length; ) {
    const end = at + 1 + random.below(most);
    stream.feed(bytes.subarray(at, end));
    if (random.once(8)) pause();
    at = end;
  }
}

export const framesTarget: Target = {
  name: 'frames',
  about: 'length-prefixed frames in any pieces, with pauses: each delivered once, whole, in order; over the bound none',
  words: [],
  maxBytes: 2_048,
  mutations: [],
  open: () => ({
    // The first byte says how the rest is cut.
    seeds: [
      join(Uint8Array.of(1), framed(Uint8Array.of(1, 2, 3)), framed(new Uint8Array())),
      join(Uint8Array.of(2), framed(new Uint8Array(FRAME_MAX)), framed(new Uint8Array(7))),
      join(Uint8Array.of(3), framed(new Uint8Array(FRAME_MAX + 1))),
      join(Uint8Array.of(4), framed(new Uint8Array(20)).subarray(0, 9)),
    ],
    run: (input) => {
      const bytes = input.subarray(1);
      const random = new Random(`frames ${input[0] ?? 0}`);
      const expected = framesIn(bytes, FRAME_MAX);
      const seen: Uint8Array[] = [];
      const ends: (Fault | undefined)[] = [];
      const stream = new FedStream();
      const channel = new FrameChannel(
        stream.asDuplex(),
        {
          onFrame: (frame) => {
            must(ends.length === 0, 'a frame after the end');
            seen.push(Uint8Array.from(frame));
            if (random.once(5)) channel.pause();
          },
          onEnd: (fault) => void ends.push(fault),
        },
        FRAME_MAX,
      );
      feed(stream, bytes, random, () => {
        channel.resume();
      });
      stream.finish();
      // Each frame may have paused it again.
      for (let i = 0; i <= expected.frames.length; i++) {
        channel.resume();
        stream.flow();
      }
      must(ends.length === 1, `the end was told ${ends.length} times`);
      const [end] = ends;
      must(seen.length === expected.frames.length, 'not the frames that were sent');
      seen.forEach((frame, i) => {
        mustEqual(frame, expected.frames[i] as Uint8Array, 'another frame than was sent');
      });
      must(
        (end?.code ?? ACCEPTED) === expected.end,
        `it ended with ${end?.code ?? 'no fault'} instead of ${expected.end}`,
      );
      return expected.end;
    },
  }),
};

/** Changes one frame of several: length or content. */
const mutateFrames: Mutation = (input, material) => {
  const { frames } = framesIn(input.subarray(1), 1 << 20);
  if (frames.length === 0) return join(input.subarray(0, 1), framed(mutateCbor(input.subarray(1), material)));
  const at = material.random.below(frames.length);
  return join(
    input.subarray(0, 1),
    ...frames.map((frame, i) => framed(i === at ? mutateCbor(frame, material) : frame)),
  );
};

const ANSWERS: readonly CborValue[] = [
  [0, 0, 'value'],
  [0, 2, 'progress'],
  [
    1,
    1,
    new Map<CborValue, CborValue>([
      ['code', 'malformed'],
      ['detail', new Map([['path', 'x']])],
    ]),
  ],
  [
    1,
    1,
    new Map<CborValue, CborValue>([
      ['code', 'internal-fault'],
      [
        'detail',
        new Map([
          ['fault', 'f'],
          ['retry', 'later'],
        ]),
      ],
    ]),
  ],
];

export const rpcTarget: Target = {
  name: 'rpc',
  about:
    'calls: a served connection answers each request once under its id and drops the rest; a caller takes any answer',
  words: ['node-platform'],
  maxBytes: 2_048,
  mutations: [mutateFrames],
  open: () => ({
    seeds: [
      join(
        Uint8Array.of(0),
        framed(encode([0, 'echo', 1])),
        framed(encode([1, 'refuse', 'x'])),
        framed(encode([2, 'fail', null])),
      ),
      join(Uint8Array.of(2), framed(encode([7, 'unknown', []])), framed(encode([8, 'echo', new Map()]))),
      ...ANSWERS.map((answer) => join(Uint8Array.of(1), framed(encode(answer)))),
    ],
    run: async (input) => {
      const bytes = input.subarray(1);
      return (input[0] ?? 0) % 2 === 0 ? serve(bytes) : call(bytes);
    },
  }),
};

async function serve(bytes: Uint8Array): Promise<string> {
  const stream = new FedStream();
  let code = ACCEPTED;
  const peer = serveRpcOn(
    stream.asDuplex(),
    {
      echo: (parameters) => accept(parameters),
      refuse: () => refuse(rejection('malformed', { path: 'x', reason: 'y', key: 'z' })),
      fail: () => {
        throw new Error('a handler fails');
      },
    },
    {
      onFault: () => undefined,
      onRejection: (refused, operation) => {
        if (operation === undefined) code = refused.code;
      },
    },
  );
  const requests = requestsIn(bytes);
  stream.feed(bytes);
  // Handlers answer in turns of their own, and it may be paused meanwhile.
  for (let turn = 0; turn < 3; turn++) {
    await new Promise(setImmediate);
    stream.flow();
  }
  const answered = stream.written.map((frame) => {
    const answer = decode(frame.subarray(4), FRAME_LIMITS);
    must(answer.ok && Array.isArray(answer.value) && answer.value.length === 3, 'an answer that is none');
    return (answer.value as readonly CborValue[])[0] as number;
  });
  // A bad frame ends the connection, with what was in hand.
  const unanswered = [...requests.ids];
  for (const id of answered) {
    const place = unanswered.indexOf(id);
    must(place >= 0, 'an answer to no request, or a second one');
    unanswered.splice(place, 1);
  }
  must(requests.bad || unanswered.length === 0, 'a request was not answered');
  must(requests.bad === stream.destroyed, 'a connection lives on after a frame that is no request');
  stream.destroy();
  stream.flow();
  await peer.ended;
  return code;
}

/** Ids of the requests before the first frame that is none. */
function requestsIn(bytes: Uint8Array): { readonly ids: readonly number[]; readonly bad: boolean } {
  const { frames, end } = framesIn(bytes, 4 * 1024 * 1024);
  const ids: number[] = [];
  for (const frame of frames) {
    const decoded = decode(frame, FRAME_LIMITS);
    const value = decoded.ok ? decoded.value : null;
    if (!Array.isArray(value) || value.length !== 3) return { ids, bad: true };
    const [id, operation] = value as readonly CborValue[];
    if (typeof id !== 'number' || id < 0 || typeof operation !== 'string') return { ids, bad: true };
    ids.push(id);
  }
  return { ids, bad: end === 'frame-too-large' };
}

async function call(bytes: Uint8Array): Promise<string> {
  const stream = new FedStream();
  const client = rpcOver(stream.asDuplex(), { timeoutMs: 0 });
  const outcomes: string[] = [];
  const calls = [0, 1].map((parameter) =>
    client.call('echo', parameter, { onProgress: () => outcomes.push('progress') }).then(
      (result) => outcomes.push(result.ok ? ACCEPTED : result.rejection.code),
      (fault: unknown) => {
        const { code } = fault as Partial<Fault>;
        must(typeof code === 'string', `a call ended with what is no fault: ${String(fault)}`);
        outcomes.push(code);
      },
    ),
  );
  stream.feed(bytes);
  stream.destroy();
  stream.flow();
  await Promise.all(calls);
  return outcomes[0] ?? 'nothing';
}
