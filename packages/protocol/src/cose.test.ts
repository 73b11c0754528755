/** Envelopes: one accepted form; the authenticated bytes depend on everything that matters. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { concat, utf8 } from './bytes.ts';
import { type CborValue, encode } from './cbor.ts';
import { CARRIED_BYTES, CARRIED_MAX, messageDigest, parseEnvelope, seal, toBeAuthenticated, unsealed } from './cose.ts';

const sha256 = (bytes: Uint8Array): Uint8Array => new Uint8Array(createHash('sha256').update(bytes).digest());
const anEnvelope = fc.record({
  authentication: fc.constantFrom('signature' as const, 'mac' as const),
  type: fc.constantFrom('batch-statistics', 'confirmation'),
  version: fc.integer({ min: 1, max: 65_535 }),
  holder: fc.constantFrom('psd_0123456789abcdef', 'confirming'),
  epoch: fc.integer({ min: 1, max: 65_535 }),
  payload: fc.uint8Array({ maxLength: 60 }),
});

describe('COSE envelope', () => {
  it('has one form of a key id: none with a byte order mark before it', () => {
    const header = (keyId: Uint8Array): Uint8Array =>
      encode(
        new Map<number, CborValue>([
          [1, -7],
          [4, keyId],
          [16, 'countermark/confirmation'],
          [-70_001, 1],
        ]),
      );
    const envelope = (keyId: Uint8Array): Uint8Array =>
      concat([Uint8Array.of(0xd2), encode([header(keyId), new Map(), new Uint8Array(1), new Uint8Array(64)])]);
    expect(parseEnvelope(envelope(utf8('confirming#1')))).toMatchObject({ ok: true });
    for (const mark of [[0xef, 0xbb, 0xbf], [0xff], [0x00]]) {
      expect(parseEnvelope(envelope(concat([Uint8Array.from(mark), utf8('confirming#1')])))).toMatchObject({
        ok: false,
        rejection: { code: 'envelope-malformed' },
      });
    }
  });

  it('gives back what was sealed', () => {
    fc.assert(
      fc.property(anEnvelope, (of) => {
        const message = unsealed(
          of.authentication,
          of.type,
          of.version,
          { holder: of.holder, epoch: of.epoch },
          of.payload,
        );
        const authenticator = new Uint8Array(of.authentication === 'signature' ? 64 : 32).fill(3);
        const parsed = parseEnvelope(seal(message, authenticator));
        expect(parsed).toEqual({ ok: true, value: { ...message, authenticator, certificates: [] } });
      }),
    );
  });

  it('has other authenticated bytes and another digest for any other procedure, type, version, key or payload', () => {
    fc.assert(
      fc.property(anEnvelope, anEnvelope, (a, b) => {
        const [x, y] = [a, b].map((of) =>
          unsealed(of.authentication, of.type, of.version, { holder: of.holder, epoch: of.epoch }, of.payload),
        ) as [ReturnType<typeof unsealed>, ReturnType<typeof unsealed>];
        const same = JSON.stringify(a) === JSON.stringify(b);
        expect(Buffer.compare(toBeAuthenticated(x), toBeAuthenticated(y)) === 0).toBe(same);
        expect(Buffer.compare(messageDigest(x, sha256), messageDigest(y, sha256)) === 0).toBe(same);
      }),
    );
  });

  it('keeps its digest when only the authenticator changes', () => {
    const message = unsealed('signature', 'confirmation', 1, { holder: 'confirming', epoch: 1 }, Uint8Array.of(0xa0));
    const digests = [1, 2].map((fill) => {
      const parsed = parseEnvelope(seal(message, new Uint8Array(64).fill(fill)));
      return parsed.ok ? messageDigest(parsed.value, sha256) : null;
    });
    expect(digests[0]).toEqual(digests[1]);
  });

  const good = unsealed('signature', 'confirmation', 1, { holder: 'confirming', epoch: 1 }, Uint8Array.of(0xa0));
  const signature = new Uint8Array(64);
  const envelope = (...parts: Parameters<typeof encode>[0][]): Uint8Array =>
    concat([Uint8Array.of(0xd2), encode(parts)]);
  const header = (...entries: (readonly [number, Parameters<typeof encode>[0]])[]): Uint8Array =>
    encode(new Map(entries));
  const one = new Uint8Array(CARRIED_BYTES);
  const byDevice = (authentication: 'signature' | 'mac') =>
    unsealed(authentication, 'batch-statistics', 1, { holder: 'psd_0123456789abcdef', epoch: 1 }, Uint8Array.of(0xa0));
  const carrying = (certificates: readonly CborValue[], ...others: (readonly [number, CborValue])[]): Uint8Array =>
    envelope(
      good.protectedHeader,
      new Map<CborValue, CborValue>([...others, [-70_002, certificates]]),
      good.payload,
      signature,
    );

  it('gives back role certificates, on which neither digest nor signed bytes depend', () => {
    const most = Array.from({ length: CARRIED_MAX }, () => one);
    const bare = parseEnvelope(seal(good, signature));
    const parsed = parseEnvelope(seal(good, signature, most));
    if (!parsed.ok || !bare.ok) throw new Error('it does not parse');
    expect(parsed.value.certificates).toEqual(most);
    expect(messageDigest(parsed.value, sha256)).toEqual(messageDigest(bare.value, sha256));
    expect(toBeAuthenticated(parsed.value)).toEqual(toBeAuthenticated(bare.value));
  });

  it.each([
    ['no tag', encode([good.protectedHeader, new Map(), good.payload, signature])],
    ['the tag of the other procedure', Uint8Array.of(0xd1, ...seal(good, signature).subarray(1))],
    ['another unprotected header', envelope(good.protectedHeader, new Map([[4, 1]]), good.payload, signature)],
    ['no role certificate where there may be some', carrying([])],
    ['a role certificate that is no byte string', carrying([1])],
    ['more role certificates than a message may carry', carrying(Array.from({ length: CARRIED_MAX + 1 }, () => one))],
    ['a role certificate that is too long', carrying([new Uint8Array(CARRIED_BYTES + 1)])],
    ['role certificates beside something else', carrying([one], [4, 1])],
    ['role certificates beside what a device signed', seal(byDevice('signature'), signature, [one])],
    ['role certificates beside a code', seal(byDevice('mac'), new Uint8Array(32), [one])],
    ['a detached payload', envelope(good.protectedHeader, new Map(), null, signature)],
    ['a short signature', envelope(good.protectedHeader, new Map(), good.payload, new Uint8Array(63))],
    ['five parts', envelope(good.protectedHeader, new Map(), good.payload, signature, 1)],
    [
      'a header with another entry',
      envelope(
        header([1, -7], [3, 0], [4, Uint8Array.of(1)], [16, 'countermark/confirmation'], [-70_001, 1]),
        new Map(),
        good.payload,
        signature,
      ),
    ],
    [
      'a header with another algorithm',
      envelope(
        header([1, -8], [4, Buffer.from('confirming#1')], [16, 'countermark/confirmation'], [-70_001, 1]),
        new Map(),
        good.payload,
        signature,
      ),
    ],
    [
      'a key id of another form',
      envelope(
        header([1, -7], [4, Buffer.from('confirming')], [16, 'countermark/confirmation'], [-70_001, 1]),
        new Map(),
        good.payload,
        signature,
      ),
    ],
    [
      'a type of another protocol',
      envelope(
        header([1, -7], [4, Buffer.from('confirming#1')], [16, 'application/x'], [-70_001, 1]),
        new Map(),
        good.payload,
        signature,
      ),
    ],
    [
      'version 0',
      envelope(
        header([1, -7], [4, Buffer.from('confirming#1')], [16, 'countermark/confirmation'], [-70_001, 0]),
        new Map(),
        good.payload,
        signature,
      ),
    ],
  ])('refuses %s', (_, bytes) => {
    const parsed = parseEnvelope(bytes);
    expect(parsed.ok ? null : parsed.rejection.code).toBe('envelope-malformed');
  });
});
