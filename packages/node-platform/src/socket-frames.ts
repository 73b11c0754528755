/**
 * Length-prefixed frames over a stream: four bytes of length (unsigned, big-endian), then that many bytes.
 *
 * Guarantees: a frame is delivered whole, in order, once; a length over the bound ends the stream before any memory is taken for
 * it; reading stops while paused (also within one chunk that holds several frames); `send` tells when to wait; every error of the
 * stream is handled here and told once through `onEnd` (a socket without an error handler takes a process down).
 * It does not interpret the frames, and it does not bound what the caller queues without waiting for `send`.
 */
import type { Duplex } from 'node:stream';
import { Fault } from './fault.ts';

/** The greatest frame, without its four bytes of length. */
const FRAME_BYTES_MAX = 4 * 1024 * 1024;

const LENGTH_BYTES = 4;

/** Pieces of a frame that are kept apart: each takes some 100 bytes of its own, and a peer may send a byte at a time. */
const PIECES_MAX = 1_024;

/** What the owner of a channel hears. Neither may throw. */
export interface FrameListener {
  /** One whole frame. The bytes are a view of a buffer that nobody writes to again. */
  onFrame(frame: Uint8Array): void;
  /** Told once. Without a fault: the peer ended cleanly between two frames, or the channel was closed here. */
  onEnd(fault?: Fault): void;
}

/** Frames over one stream. */
export class FrameChannel {
  readonly #stream: Duplex;
  readonly #listener: FrameListener;
  readonly #bytesMax: number;
  #chunks: Buffer[] = [];
  /** Of `#chunks`, how many at the end came since pieces were last joined. */
  #loose = 0;
  #chunkBytes = 0;
  #wanted = LENGTH_BYTES;
  #paused = false;
  #ended = false;
  #peerEnded = false;
  #drained: Promise<void> | undefined;
  #releaseDrained: (() => void) | undefined;

  /**
   * Takes over the stream. `bytesMax` bounds frames both ways (default 4 MiB).
   */
  constructor(stream: Duplex, listener: FrameListener, bytesMax: number = FRAME_BYTES_MAX) {
    this.#stream = stream;
    this.#listener = listener;
    this.#bytesMax = bytesMax;
    stream.on('data', (chunk: Buffer) => {
      // Read on only to see the peer's end.
      if (this.#ended) return;
      this.#chunks.push(chunk);
      this.#chunkBytes += chunk.length;
      this.#loose += 1;
      // Only the last ones: joining all of them again and again would take time with the square of the frame.
      if (this.#loose >= PIECES_MAX) {
        this.#chunks.push(Buffer.concat(this.#chunks.splice(-this.#loose)));
        this.#loose = 0;
      }
      this.#deliver();
    });
    stream.on('end', () => {
      this.#peerEnded = true;
      this.#deliver();
    });
    stream.on('error', (error) => {
      this.#end(
        new Fault('connection-broken', `the connection broke: ${error.message}`, { retry: 'now', cause: error }),
      );
    });
    stream.on('close', () => {
      this.#end(
        this.#peerEnded ? undefined : new Fault('connection-broken', 'the connection was closed', { retry: 'now' }),
      );
    });
    stream.on('drain', () => {
      this.#release();
    });
  }

  /**
   * Sends one frame. Returns undefined when more may be sent at once, else a promise that resolves when the stream has drained
   * (or ended: whoever waits for an answer hears of that through `onEnd`).
   */
  send(frame: Uint8Array): Promise<void> | undefined {
    if (frame.length > this.#bytesMax) {
      throw new Fault(
        'frame-too-large',
        `a frame of ${String(frame.length)} bytes is over the bound of ${String(this.#bytesMax)}`,
        {
          retry: 'never',
        },
      );
    }
    if (this.#ended) return undefined;
    const bytes = Buffer.allocUnsafe(LENGTH_BYTES + frame.length);
    bytes.writeUInt32BE(frame.length, 0);
    bytes.set(frame, LENGTH_BYTES);
    if (this.#stream.write(bytes)) return undefined;
    this.#drained ??= new Promise((resolve) => {
      this.#releaseDrained = resolve;
    });
    return this.#drained;
  }

  /** True once the stream is gone; frames sent then are dropped. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Delivers no further frame until `resume`; the peer is held back by the stream's own flow control. */
  pause(): void {
    this.#paused = true;
    this.#stream.pause();
  }

  /** Goes on delivering, first what had arrived already. */
  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#stream.resume();
    this.#deliver();
  }

  /** Ends the stream after what was sent; if the peer does not end its side within `graceMs`, destroys it. */
  close(graceMs = 2_000): void {
    if (this.#ended) return;
    const stream = this.#stream;
    this.#end();
    stream.resume();
    stream.end();
    const timer = setTimeout(() => stream.destroy(), graceMs);
    timer.unref();
    stream.once('close', () => {
      clearTimeout(timer);
    });
  }

  /** Ends the stream at once. */
  destroy(): void {
    this.#stream.destroy();
    this.#end();
  }

  #deliver(): void {
    while (!this.#paused && !this.#ended && this.#chunkBytes >= this.#wanted) {
      const buffer = this.#joined();
      const length = buffer.readUInt32BE(0);
      if (length > this.#bytesMax) {
        this.#stream.destroy();
        this.#end(
          new Fault(
            'frame-too-large',
            `the peer announced a frame of ${String(length)} bytes; the bound is ${String(this.#bytesMax)}`,
            {
              retry: 'never',
            },
          ),
        );
        return;
      }
      const end = LENGTH_BYTES + length;
      if (buffer.length < end) {
        this.#wanted = end;
        continue;
      }
      this.#wanted = LENGTH_BYTES;
      this.#chunks = buffer.length > end ? [buffer.subarray(end)] : [];
      this.#loose = 0;
      this.#chunkBytes = buffer.length - end;
      this.#listener.onFrame(buffer.subarray(LENGTH_BYTES, end));
    }
    if (this.#peerEnded && !this.#paused && !this.#ended) {
      this.#stream.end();
      this.#end(
        this.#chunkBytes === 0
          ? undefined
          : new Fault('connection-broken', 'the connection ended within a frame', { retry: 'now' }),
      );
    }
  }

  #joined(): Buffer {
    const [first] = this.#chunks;
    if (first !== undefined && this.#chunks.length === 1) return first;
    const joined = Buffer.concat(this.#chunks, this.#chunkBytes);
    this.#chunks = [joined];
    this.#loose = 0;
    return joined;
  }

  #end(fault?: Fault): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#chunks = [];
    this.#chunkBytes = 0;
    this.#release();
    this.#listener.onEnd(fault);
  }

  #release(): void {
    const release = this.#releaseDrained;
    this.#drained = undefined;
    this.#releaseDrained = undefined;
    release?.();
  }
}
