/** Trust bundles: what was written is read; anything doubtful is refused. */
import { ROLES } from '@countermark/protocol/message';
import { describe, expect, it } from 'vitest';
import { formatTrustBundle, parseTrustBundle, trustedKeys } from './trust-bundle.ts';

const point = (fill: number): Uint8Array => Uint8Array.of(4, ...new Uint8Array(64).fill(fill));
const bundle = {
  keys: ROLES.map((role, i) => ({ role, epoch: 1, publicKey: point(i) })),
  agreementKey: point(99),
  sessionAuthority: Uint8Array.of(0x30, 0),
};

describe('Trust bundle', () => {
  it('reads what it wrote, and finds keys by role and epoch', () => {
    const parsed = parseTrustBundle(formatTrustBundle(bundle));
    expect(parsed).toEqual({ ok: true, value: bundle });
    const keys = trustedKeys(bundle);
    expect(keys({ holder: 'confirming', epoch: 1 })?.publicKey).toEqual(point(ROLES.indexOf('confirming')));
    expect(keys({ holder: 'confirming', epoch: 2 })).toBeNull();
    expect(keys({ holder: 'psd_0011223344556677', epoch: 1 })).toBeNull();
  });

  const text = (changes: object): string =>
    JSON.stringify({ ...(JSON.parse(formatTrustBundle(bundle)) as object), ...changes });
  const key = { role: 'funds', epoch: 1, publicKey: '04'.repeat(65) };
  it.each([
    ['no JSON', '{'],
    ['another schema', text({ schema: 2 })],
    ['an unknown role', text({ keys: [{ ...key, role: 'root' }] })],
    ['epoch 0', text({ keys: [{ ...key, epoch: 0 }] })],
    ['an epoch that no message can name', text({ keys: [{ ...key, epoch: 65_536 }] })],
    ['a compressed point', text({ keys: [{ ...key, publicKey: '02'.repeat(33) }] })],
    ['a point that is none', text({ keys: [{ ...key, publicKey: '05'.repeat(65) }] })],
    ['a key twice', text({ keys: [key, key] })],
    ['null in place of a key', text({ keys: [key, null] })],
    ['no agreement key', text({ agreementKey: '' })],
    ['null', 'null'],
  ])('refuses %s', (_, input) => {
    const parsed = parseTrustBundle(input);
    expect(parsed.ok ? null : parsed.rejection.code).toBe('malformed');
  });
});
