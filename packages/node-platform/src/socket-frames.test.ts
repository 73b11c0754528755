import { Duplex, PassThrough } from 'node:stream';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Fault } from './fault.ts';
import { FrameChannel } from './socket-frames.ts';
import { relay } from './stream-relay.ts';

/** What a channel hears from a stream that brings these chunks and then ends. */
async function heard(
  chunks: readonly Uint8Array[],
  bytesMax = 1_000,
): Promise<{ frames: Uint8Array[]; fault: Fault | undefined }> {
  const stream = new PassThrough();
  const frames: Uint8Array[] = [];
  const ended = new Promise<Fault | undefined>((resolve) => {
    const channel: FrameChannel = new FrameChannel(
      Duplex.from({ readable: stream, writable: new PassThrough().resume() }),
      {
        onFrame: (frame) => {
          frames.push(Uint8Array.from(frame));
          // Holding back after every frame changes nothing but the pace.
          channel.pause();
          setImmediate(() => {
            channel.resume();
          });
        },
        onEnd: resolve,
      },
      bytesMax,
    );
  });
  for (const chunk of chunks) stream.write(chunk);
  stream.end();
  return { fault: await ended, frames };
}

function framed(frames: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    frames.flatMap((frame) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(frame.length);
      return [length, Buffer.from(frame)];
    }),
  );
}

function cut(bytes: Buffer, at: readonly number[]): Buffer[] {
  const places = [0, ...at.map((place) => place % (bytes.length + 1)).sort((one, other) => one - other), bytes.length];
  return places.slice(1).map((end, index) => bytes.subarray(places[index], end));
}

describe('frames', () => {
  it('arrive whole and in order, however the stream is cut', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 8 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        async (frames, cuts) => {
          const bytes = framed(frames);
          expect(await heard(cut(bytes, cuts))).toEqual({ frames, fault: undefined });
        },
      ),
    );
  });

  it('arrive whole also where each byte comes alone, thousands of them, in a frame after a frame', async () => {
    const frames = [5_000, 1, 2_600, 0, 3_000].map((length, seed) =>
      Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 255),
    );
    const bytes = framed(frames);
    const alone = Array.from({ length: bytes.length }, (_, i) => i);
    expect(await heard(cut(bytes, alone), 10_000)).toEqual({ frames, fault: undefined });
  });

  it('that are cut off are told of, and never delivered', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 50 }), { minLength: 1, maxLength: 4 }),
        async (frames) => {
          const result = await heard([framed(frames).subarray(0, -1)]);
          expect(result.frames).toEqual(frames.slice(0, -1));
          expect(result.fault).toMatchObject({ code: 'connection-broken' });
        },
      ),
    );
  });

  it('over the bound end the stream after what came before', async () => {
    const result = await heard([framed([Uint8Array.of(1), new Uint8Array(1_001), Uint8Array.of(2)])]);
    expect(result.frames).toEqual([Uint8Array.of(1)]);
    expect(result.fault).toMatchObject({ code: 'frame-too-large' });
    expect((await heard([framed([new Uint8Array(1_000)])])).frames).toHaveLength(1);
  });

  it('make the sender wait until the stream has drained, and set it free when that ends', async () => {
    const written: (() => void)[] = [];
    const stream = new Duplex({
      read: () => undefined,
      write: (_chunk, _encoding, done: () => void) => written.push(done),
      highWaterMark: 10,
    });
    const ends: (Fault | undefined)[] = [];
    const channel = new FrameChannel(stream, { onFrame: () => undefined, onEnd: (fault) => ends.push(fault) });
    expect(channel.send(new Uint8Array(1))).toBeUndefined();
    const drained = channel.send(new Uint8Array(20));
    expect(drained).toBeInstanceOf(Promise);
    for (let done = written.shift(); done !== undefined; done = written.shift()) {
      done();
      await new Promise(setImmediate);
    }
    await drained;
    const waiting = channel.send(new Uint8Array(20));
    stream.destroy(new Error('gone'));
    await waiting;
    expect(ends).toMatchObject([{ code: 'connection-broken', retry: 'now' }]);
    expect(channel.send(new Uint8Array(20))).toBeUndefined();
  });
});

describe('a relay', () => {
  const pair = (): { near: Duplex; far: Duplex } => {
    const there = new PassThrough();
    const back = new PassThrough();
    return {
      near: Duplex.from({ readable: back, writable: there }),
      far: Duplex.from({ readable: there, writable: back }),
    };
  };

  it('carries both ways until both have ended', async () => {
    const one = pair();
    const other = pair();
    const relayed = relay(one.far, other.far);
    one.near.end('there');
    other.near.end('back');
    const read = async (stream: Duplex): Promise<string> => Buffer.concat(await stream.toArray()).toString();
    expect(await Promise.all([read(other.near), read(one.near)])).toEqual(['there', 'back']);
    expect(await relayed).toBeUndefined();
  });

  it('destroys both when one fails, and tells why', async () => {
    const one = pair();
    const other = pair();
    for (const stream of [one.near, other.near]) stream.on('error', () => undefined);
    const relayed = relay(one.far, other.far);
    one.far.destroy(new Error('cable cut'));
    expect(await relayed).toMatchObject({ message: 'cable cut' });
    expect(other.far.destroyed).toBe(true);
  });
});
