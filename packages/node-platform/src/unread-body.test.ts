import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { dropUnread } from './unread-body.ts';

describe('The rest of a body that is refused', () => {
  it('is read to its end', async () => {
    const body = Readable.from([new Uint8Array(10), new Uint8Array(20)]);
    expect(await dropUnread(body)).toBe(true);
    expect(body.readableEnded).toBe(true);
  });

  it('is given up beyond its bound of bytes, and of time', async () => {
    const endless = new Readable({
      read() {
        this.push(new Uint8Array(1_000));
      },
    });
    expect(await dropUnread(endless, 10_000)).toBe(false);
    const silent = new Readable({ read: () => undefined });
    expect(await dropUnread(silent, 10, 5)).toBe(false);
  });

  it('that breaks off, or had ended before, is no fault', async () => {
    const broken = new Readable({ read: () => undefined });
    const dropped = dropUnread(broken);
    broken.destroy(new Error('gone'));
    expect(await dropped).toBe(false);
    const ended = Readable.from([]);
    for await (const _ of ended);
    expect(await dropUnread(ended)).toBe(true);
  });
});
