/** A role's key gives way to the next: once for a ceremony, wherever the process ends, and never two in use at once. */
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { nodeVerification } from '@countermark/node-platform/verification';
import { CARRIED_MAX, parseEnvelope } from '@countermark/protocol/cose';
import type { CeremonyId, DeviceId } from '@countermark/protocol/id';
import { CERTIFIED_ROLES } from '@countermark/protocol/message';
import { SIGNED_TIME } from '@countermark/protocol/messages/policy';
import type { Result } from '@countermark/protocol/result';
import { type TrustBundle, trustedKeys, withRoleCertificates } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type DeviceRegister, openDeviceRegister } from './device-register.ts';
import type { KeyRole, KeyStore } from './key-store.ts';
import { openRoleKeys, publicKeysOf, type RoleKeys } from './role-keys.ts';
import { signMessage } from './role-messages.ts';
import { openSessionAuthority, type SessionAuthority, sessionAuthorityProblems } from './session-authority.ts';
import { openSoftwareKeys } from './software-keys.ts';

const HOUR_MS = 3_600_000;
const DEVICE = 'psd_0123456789abcdef' as DeviceId;
const ceremony = (n: number) => `cer_${n.toString(16).padStart(32, '0')}` as CeremonyId;

type Opened = { readonly keys: KeyStore; readonly register: DeviceRegister; readonly roleKeys: RoleKeys };

let folder: string;
let clock: ManualClock;
let opened: Opened[];
/** What whoever trusts the first keys has. */
let bundle: TrustBundle;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'role-keys-'));
  clock = new ManualClock(Date.UTC(2026, 0, 1));
  opened = [];
  const { roleKeys } = open();
  bundle = { keys: roleKeys.all(), agreementKey: new Uint8Array(65), sessionAuthority: Uint8Array.of(0) };
});
afterEach(async () => {
  await close();
  rmSync(folder, { recursive: true });
});

/** `store`: what stands between the role keys and their store. */
function open(store: (keys: KeyStore) => KeyStore = (keys) => keys): Opened {
  const keys = store(value(openSoftwareKeys(join(folder, 'keys'), 1)));
  const register = value(openDeviceRegister(folder, publicKeysOf(keys), () => undefined));
  const one = { keys, register, roleKeys: value(openRoleKeys(keys, register, clock)) };
  opened.push(one);
  return one;
}

/** As when the process ends: what is on disk stays. */
async function close(): Promise<void> {
  for (const { keys, register } of opened.splice(0)) {
    register.close();
    await keys.close();
  }
}

async function reopened(store?: (keys: KeyStore) => KeyStore): Promise<Opened> {
  await close();
  return open(store);
}

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.rejection.code} ${JSON.stringify(result.rejection.detail)}`);
  return result.value;
}

function codeOf(result: Result<unknown>): string {
  return result.ok ? 'accepted' : result.rejection.code;
}

const signedTime = (keys: RoleKeys) => signMessage(keys, SIGNED_TIME, { device: DEVICE, timeMs: clock.nowMs() });
const outcome = (bytes: Uint8Array, trusted: TrustBundle) =>
  codeOf(verifyMessage(SIGNED_TIME, bytes, { port: nodeVerification, keys: trustedKeys(trusted) }));

/** The same store, so that one of its operations can be another. */
function standingBefore(keys: KeyStore): KeyStore {
  return {
    epochs: (role) => keys.epochs(role),
    publicKey: (role, epoch) => keys.publicKey(role, epoch),
    canUse: (role, epoch) => keys.canUse(role, epoch),
    make: (role, epoch) => keys.make(role, epoch),
    retire: (role, epoch) => keys.retire(role, epoch),
    sign: (role, epoch, inputs) => keys.sign(role, epoch, inputs),
    verifySignatures: (checks) => keys.verifySignatures(checks),
    verifyMacs: (checks) => keys.verifyMacs(checks),
    close: () => keys.close(),
  };
}

/** The epoch of the key that signed it. */
function epochOf(bytes: Uint8Array): number {
  return value(parseEnvelope(bytes)).key.epoch;
}

/** The same store, whose operation fails before or after it was done. */
function failing(operation: 'make' | 'retire', when: 'before' | 'after'): (keys: KeyStore) => KeyStore {
  return (keys) => {
    const end = async (role: KeyRole, epoch: number): Promise<never> => {
      if (when === 'after') await keys[operation](role, epoch);
      throw new Error('the process ends here');
    };
    return { ...standingBefore(keys), [operation]: end };
  };
}

describe('A rotated key of a role', () => {
  it.each(CERTIFIED_ROLES)('%s: is followed by whoever trusts the first issuing key', async (role) => {
    const { roleKeys } = await reopened();
    const before = await signedTime(roleKeys);
    const certificate = value(await roleKeys.rotate(role, ceremony(1)));
    const after = await signedTime(roleKeys);
    expect([outcome(before, bundle), outcome(after, bundle)]).toEqual(['accepted', 'accepted']);
    const later = withRoleCertificates(bundle, [certificate], nodeVerification);
    expect(later.keys).toHaveLength(bundle.keys.length + 1);
    expect(later.keys.map(({ role: of, epoch }) => `${of}#${epoch}`)).toContain(`${role}#2`);
    expect([outcome(before, later), outcome(after, later)]).toEqual(['accepted', 'accepted']);
  });

  it('is followed through rotations of the issuing key, in whatever order', async () => {
    const { roleKeys } = await reopened();
    const certificates: Uint8Array[] = [];
    for (const [n, role] of (['policy', 'issuing', 'policy', 'issuing', 'issuing', 'policy'] as const).entries()) {
      clock.advance(2 * HOUR_MS);
      certificates.push(value(await roleKeys.rotate(role, ceremony(n))));
      expect(outcome(await signedTime(roleKeys), bundle)).toBe('accepted');
    }
    const whole = withRoleCertificates(bundle, certificates, nodeVerification);
    expect(whole.keys.filter(({ role }) => role === 'issuing').map(({ epoch }) => epoch)).toEqual([1, 2, 3, 4]);
    // Who knows only the newest issuing key needs nothing of what was before.
    const newest = { ...whole, keys: whole.keys.filter(({ role, epoch }) => role === 'issuing' && epoch === 4) };
    expect(outcome(await signedTime(roleKeys), newest)).toBe('accepted');
    const none = { ...whole, keys: whole.keys.filter(({ role }) => role !== 'issuing' && role !== 'policy') };
    expect(outcome(await signedTime(roleKeys), none)).toBe('unknown-key');
  });

  it('is followed through as many issuing keys as a message has room for, and then needs a newer bundle', async () => {
    const { roleKeys } = await reopened();
    const certificates: Uint8Array[] = [];
    for (let n = 0; n < CARRIED_MAX; n += 1) {
      clock.advance(2 * HOUR_MS);
      certificates.push(value(await roleKeys.rotate('issuing', ceremony(n))));
      if (n === CARRIED_MAX - 2) certificates.push(value(await roleKeys.rotate('policy', ceremony(100))));
    }
    expect(outcome(await signedTime(roleKeys), bundle)).toBe('accepted');
    clock.advance(2 * HOUR_MS);
    certificates.push(value(await roleKeys.rotate('policy', ceremony(101))));
    const far = await signedTime(roleKeys);
    expect(outcome(far, bundle)).toBe('unknown-key');
    expect(outcome(far, withRoleCertificates(bundle, certificates, nodeVerification))).toBe('accepted');
  });

  it('is made once for a ceremony, which is for one role', async () => {
    const { roleKeys } = await reopened();
    const certificate = Buffer.from(value(await roleKeys.rotate('funds', ceremony(1))));
    expect(value(await roleKeys.rotate('funds', ceremony(1)))).toEqual(certificate);
    expect(codeOf(await roleKeys.rotate('policy', ceremony(1)))).toBe('ceremony-conflict');
    const again = await reopened();
    expect(value(await again.roleKeys.rotate('funds', ceremony(1)))).toEqual(certificate);
    expect(again.roleKeys.inUse('funds').epoch).toBe(2);
    expect(again.roleKeys.inUse('policy').epoch).toBe(1);
  });

  it('is made at most once an hour for a role, by this clock', async () => {
    const { roleKeys } = await reopened();
    value(await roleKeys.rotate('funds', ceremony(1)));
    clock.advance(HOUR_MS - 1);
    expect(codeOf(await roleKeys.rotate('funds', ceremony(2)))).toBe('rotation-too-soon');
    expect(codeOf(await (await reopened()).roleKeys.rotate('funds', ceremony(2)))).toBe('rotation-too-soon');
    expect(codeOf(await opened[0]!.roleKeys.rotate('policy', ceremony(3)))).toBe('accepted');
  });

  it('signs nothing by the one before, whose private part is gone', async () => {
    const { keys, roleKeys } = await reopened();
    const inHand = Array.from({ length: 20 }, () => signedTime(roleKeys));
    value(await roleKeys.rotate('policy', ceremony(1)));
    for (const time of inHand) expect(outcome(await time, bundle)).toBe('accepted');
    expect(keys.canUse('policy', 1)).toBe(false);
    expect(readdirSync(join(folder, 'keys')).filter((name) => name.startsWith('policy'))).toEqual([
      'policy-2.key',
      'policy.pub',
    ]);
  });
});

describe('A rotated key of agreement', () => {
  it('is what devices get from then on, and leaves the one before, with which codes of others are checked', async () => {
    const { keys, roleKeys } = await reopened();
    const first = roleKeys.agreementKey;
    const certificate = value(await roleKeys.rotate('agreement', ceremony(1)));
    expect(roleKeys.agreementKey).toEqual(keys.publicKey('agreement', 2));
    expect([keys.canUse('agreement', 1), keys.canUse('agreement', 2)]).toEqual([true, true]);
    const later = withRoleCertificates({ ...bundle, agreementKey: first }, [certificate], nodeVerification);
    expect(later).toEqual({ ...bundle, agreementKey: roleKeys.agreementKey });
    const again = await reopened();
    await again.roleKeys.retireOld();
    expect(again.roleKeys.agreementKey).toEqual(keys.publicKey('agreement', 2));
    expect(again.keys.canUse('agreement', 1)).toBe(true);
  });
});

describe("A rotated key of the sessions' authority", () => {
  const opening = async ({ keys, roleKeys, register }: Opened): Promise<SessionAuthority> =>
    value(await openSessionAuthority({ keys, roleKeys, register, clock }));
  const x509 = (der: Uint8Array) => new X509Certificate(der);
  /** Each of the chain by the next, the last by the first authority's own. */
  const expectChain = ({ certificate, certificates, chain }: SessionAuthority): void => {
    const issuers = [...chain.slice(1), certificates[0]!].map(x509);
    for (const [i, one] of chain.entries()) {
      expect([x509(one).checkIssued(issuers[i]!), x509(one).verify(issuers[i]!.publicKey)]).toEqual([true, true]);
    }
    expect(x509(certificate).verify(x509(certificate).publicKey)).toBe(true);
    expect(x509(chain[0] ?? certificate).publicKey.export({ type: 'spki', format: 'der' })).toEqual(
      x509(certificate).publicKey.export({ type: 'spki', format: 'der' }),
    );
    expect(new Set(certificates.map((one) => x509(one).subject)).size).toBe(certificates.length);
  };

  it('was certified by the one before, which is destroyed then; all certificates stay', async () => {
    const first = await opening(await reopened());
    const [pinned] = first.certificates;
    for (const [n, told] of [1, 2].entries()) {
      clock.advance(2 * HOUR_MS);
      const { keys, roleKeys, register } = await reopened();
      const authority = await opening({ keys, roleKeys, register });
      let rotations = 0;
      authority.onRotated(() => {
        rotations += 1;
      });
      value(await roleKeys.rotate('session-authority', ceremony(n)));
      value(await roleKeys.rotate('session-authority', ceremony(n)));
      expect([rotations, authority.certificates.length, authority.chain.length]).toEqual([1, told + 1, told]);
      expect(keys.canUse('session-authority', told)).toBe(false);
      expectChain(authority);
    }
    const last = await reopened();
    const again = await opening(last);
    expect(again.certificates[0]).toEqual(pinned);
    expectChain(again);
    expect(sessionAuthorityProblems(last)).toEqual([]);
    // The first authority has certified the second, and not the third.
    const stored = last.register.ownCertificate.bind(last.register);
    const [byTheFirst, byTheSecond] = ['session-authority-2-by-1', 'session-authority-3-by-2'];
    const swapped: Record<string, string> = { [byTheFirst]: byTheSecond, [byTheSecond]: byTheFirst };
    vi.spyOn(last.register, 'ownCertificate').mockImplementation((name) => stored(swapped[name] ?? name));
    expect(sessionAuthorityProblems(last)).toEqual([
      'no certificate leads from the session authority of epoch 1 to the next one',
      'no certificate leads from the session authority of epoch 2 to the next one',
    ]);
  });

  it.each([
    ['before its key is made', failing('make', 'before')],
    ['before it is certified', failing('make', 'after')],
    ['before the old key is destroyed', failing('retire', 'before')],
    ['after the old key was destroyed', failing('retire', 'after')],
  ])('is gone on with where that was interrupted %s', async (_, store) => {
    const one = await reopened(store);
    await opening(one);
    await expect(one.roleKeys.rotate('session-authority', ceremony(1))).rejects.toThrow('ends here');
    const again = await reopened();
    await again.roleKeys.retireOld();
    const authority = await opening(again);
    value(await again.roleKeys.rotate('session-authority', ceremony(1)));
    expect(authority.chain).toHaveLength(1);
    expect([again.keys.canUse('session-authority', 1), again.keys.canUse('session-authority', 2)]).toEqual([
      false,
      true,
    ]);
    expectChain(authority);
  });

  it('is made anew with its certificates where they were not in use yet', async () => {
    const one = await reopened((keys) => ({
      ...standingBefore(keys),
      // The last signature before the register: the certificate of the role.
      sign: async (role, epoch, inputs) => {
        if (role === 'issuing') throw new Error('the process ends here');
        return keys.sign(role, epoch, inputs);
      },
    }));
    await opening(one);
    await expect(one.roleKeys.rotate('session-authority', ceremony(1))).rejects.toThrow('ends here');
    const again = await reopened();
    const authority = await opening(again);
    expect(authority.certificates).toHaveLength(1);
    value(await again.roleKeys.rotate('session-authority', ceremony(1)));
    expectChain(authority);
  });

  it.each(['session-authority-2', 'session-authority-2-by-1'])(
    'without %s is refused at the start',
    async (missing) => {
      const one = await reopened();
      await opening(one);
      value(await one.roleKeys.rotate('session-authority', ceremony(1)));
      const { keys, roleKeys, register } = await reopened();
      const stored = register.ownCertificate.bind(register);
      vi.spyOn(register, 'ownCertificate').mockImplementation((name) => (name === missing ? null : stored(name)));
      expect(codeOf(await openSessionAuthority({ keys, roleKeys, register, clock }))).toBe('store-damaged');
      expect(sessionAuthorityProblems({ keys, roleKeys, register })).toEqual([
        missing === 'session-authority-2'
          ? 'the certificate of the session authority of epoch 2 is missing, or not of its key'
          : 'no certificate leads from the session authority of epoch 1 to the next one',
      ]);
    },
  );
});

describe('What is being signed while its key is rotated', () => {
  it('ends first, by the old key, before that is destroyed; what comes later is by the new one', async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const { keys, roleKeys } = await reopened((store) => ({
      ...standingBefore(store),
      sign: async (role, epoch, inputs) => {
        if (role === 'policy' && epoch === 1) await gate;
        return store.sign(role, epoch, inputs);
      },
    }));
    const inHand = signedTime(roleKeys);
    const rotated = roleKeys.rotate('policy', ceremony(1));
    while (roleKeys.inUse('policy').epoch === 1) await new Promise((resolve) => setImmediate(resolve));
    expect(epochOf(await signedTime(roleKeys))).toBe(2);
    expect(keys.canUse('policy', 1)).toBe(true);
    release();
    expect([epochOf(await inHand), outcome(await inHand, bundle)]).toEqual([1, 'accepted']);
    value(await rotated);
    expect(keys.canUse('policy', 1)).toBe(false);
  });
});

describe('A rotation that is interrupted', () => {
  it.each([
    ['before its key is made', failing('make', 'before'), 1],
    ['between its key and the register', failing('make', 'after'), 1],
    ['before the old key is destroyed', failing('retire', 'before'), 2],
    ['after the old key was destroyed', failing('retire', 'after'), 2],
  ])('%s is gone on with by the same ceremony', async (_, store, epochThen) => {
    const { roleKeys } = await reopened(store);
    await expect(roleKeys.rotate('policy', ceremony(1))).rejects.toThrow('ends here');
    const again = await reopened();
    await again.roleKeys.retireOld();
    expect(again.roleKeys.inUse('policy').epoch).toBe(epochThen);
    expect(outcome(await signedTime(again.roleKeys), bundle)).toBe('accepted');
    expect(again.keys.canUse('policy', 1)).toBe(epochThen === 1);
    value(await again.roleKeys.rotate('policy', ceremony(1)));
    expect(again.roleKeys.inUse('policy').epoch).toBe(2);
    expect([again.keys.canUse('policy', 1), again.keys.canUse('policy', 2)]).toEqual([false, true]);
    expect(outcome(await signedTime(again.roleKeys), bundle)).toBe('accepted');
  });

  it('leaves a key that nobody certified: it is no key of the role', async () => {
    const { keys, roleKeys } = await reopened(failing('make', 'after'));
    await expect(roleKeys.rotate('policy', ceremony(1))).rejects.toThrow('ends here');
    expect(keys.epochs('policy')).toEqual([1, 2]);
    const again = await reopened();
    expect(again.roleKeys.all().filter(({ role }) => role === 'policy')).toHaveLength(1);
    expect(again.roleKeys.source({ holder: 'policy', epoch: 2 })).toBeNull();
  });
});

describe('Keys and a register that are not of the same time', () => {
  it('are refused, with what is missing', async () => {
    const { roleKeys } = await reopened();
    value(await roleKeys.rotate('policy', ceremony(1)));
    await close();
    // The register from before the rotation, beside keys from after it.
    for (const name of readdirSync(folder)) if (name.includes('sqlite')) rmSync(join(folder, name));
    const keys = value(openSoftwareKeys(join(folder, 'keys'), 1));
    const register = value(openDeviceRegister(folder, publicKeysOf(keys), () => undefined));
    const refused = openRoleKeys(keys, register, clock);
    expect(codeOf(refused)).toBe('store-damaged');
    expect(JSON.stringify(refused)).toContain('policy key of epoch 1');
    register.close();
    await keys.close();
  });
});
