/** The holders of a PSD's keys through one suite, the device on each of them, and what is a token's own: its mark, and being away. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Fault } from '@countermark/node-platform/fault';
import { isHsmConfig, type HsmConfig } from '@countermark/node-platform/hsm-access';
import {
  agreedKey,
  equalMacs,
  generateSigningKey,
  hmacSha256,
  importPublicKey,
  publicKeyBytes,
  sharedSecret,
} from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { Authentication } from '@countermark/protocol/cose';
import { type Digest, sameBytes } from '@countermark/protocol/digest';
import { parseIndicium } from '@countermark/protocol/layout';
import { macKeyInfo } from '@countermark/protocol/mac-key';
import type { EnrolmentRequest } from '@countermark/protocol/messages/enrolment';
import { mills } from '@countermark/protocol/money';
import type { DeviceId } from '@countermark/protocol/id';
import { checkStore } from '@countermark/psd/shell/check';
import { type Device, type DeviceOptions, openDevice } from '@countermark/psd/shell/device';
import { type DeviceMark, isPutBack, markBytes, markOf } from '@countermark/psd/shell/device-mark';
import type { KeyHolder } from '@countermark/psd/shell/key-holder';
import { STORE_KEYS } from '@countermark/psd/shell/keys';
import { openTokenKeys } from '@countermark/psd/shell/token-keys';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type SoftHsm, softHsm } from '../../bench/src/soft-hsm.ts';
import { START_MS, TestAuthority } from '../../packages/psd/testing/authority.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../packages/psd/testing/mailing.ts';
import { value } from './server-parties.ts';

const DEVICE = 'psd_0123456789abcdef' as DeviceId;
const hsm = softHsm('psd', 'other');
const skipped = typeof hsm === 'string';
const token = (label = 'psd'): HsmConfig => (hsm as SoftHsm).of(label);
afterAll(() => {
  if (!skipped) hsm.stop();
});

const HOLDERS = [
  { name: 'in the store', open: async () => STORE_KEYS, isThere: true },
  { name: 'on a token', open: async () => value(await openTokenKeys(token())), isThere: !skipped },
] as const;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'psd-keys-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Names of the token's keys, as another program sees them. */
function keysOn(label: string): string[] {
  const { module, pinFile } = token(label);
  const pin = readFileSync(pinFile, 'utf8').trim();
  const listed = execFileSync(
    'pkcs11-tool',
    ['--module', module, '--token-label', label, '--login', '--pin', pin, '--list-objects', '--type', 'privkey'],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  return [...listed.toString().matchAll(/label:\s+(\S+)/g)].map(([, name = '']) => name).sort();
}

describe.each(HOLDERS)('A holder with the keys $name', ({ open, isThere }) => {
  const it = test.skipIf(!isThere);
  let holder: KeyHolder;
  beforeAll(async () => {
    if (isThere) holder = await open();
  });
  afterAll(async () => {
    if (isThere) await holder.close();
  });

  it('makes other keys for each use and epoch, signs and agrees with them, and finds them again by what is stored', async () => {
    await holder.ready();
    const [first, second] = [holder.make(DEVICE, 1), holder.make(DEVICE, 2)];
    const points = [first, second].flatMap(({ signing, agreement }) => [signing.publicKey, agreement.publicKey]);
    expect(new Set(points.map((point) => Buffer.from(point).toString('hex'))).size).toBe(4);
    const peer = generateSigningKey();
    for (const made of [first, second]) {
      const again = {
        signing: holder.signingKey(made.signing.stored),
        agreement: holder.agreementKey(made.agreement.stored),
      };
      for (const { signing, agreement } of [made, again]) {
        expect(sameBytes(signing.publicKey, made.signing.publicKey)).toBe(true);
        const input = Uint8Array.of(1, 2, 3);
        expect(nodeVerification.verifySignature(signing.publicKey, input, signing.sign(input))).toBe(true);
        const own = importPublicKey(agreement.publicKey);
        const secret = sharedSecret(peer.privateKey, own!);
        expect(sameBytes(agreement.agree(publicKeyBytes(peer.publicKey)), secret)).toBe(true);
        expect(() => agreement.agree(new Uint8Array(65).fill(4))).toThrow(TypeError);
      }
    }
    for (const stored of [new Uint8Array(0), new Uint8Array(70).fill(1)]) {
      expect(() => holder.signingKey(stored)).toThrow();
    }
  });

  it('signs many in order, beside what is signed at once', async () => {
    await holder.ready();
    const { signing } = holder.make(DEVICE, 3);
    const signer = signing.packedSigner();
    for (const count of [1, 7, 65]) {
      const inputs = Uint8Array.from({ length: count * 5 }, (_, i) => i % 251);
      const many = signer.signPacked(inputs, 5);
      expect(nodeVerification.verifySignature(signing.publicKey, inputs, signing.sign(inputs))).toBe(true);
      const signatures = await many;
      expect(signatures).toHaveLength(count * 64);
      for (let i = 0; i < count; i += 1) {
        const [input, signature] = [inputs.subarray(i * 5, i * 5 + 5), signatures.subarray(i * 64, i * 64 + 64)];
        expect(nodeVerification.verifySignature(signing.publicKey, input, signature)).toBe(true);
      }
    }
    await signer.close();
  });
});

/** A device, enrolled and with funds, and what a test does with it. */
class Life {
  readonly authority = new TestAuthority();
  readonly options: DeviceOptions;
  holder: KeyHolder;
  device: Device;
  enrolling: EnrolmentRequest;
  broken: unknown = null;

  constructor(holder: KeyHolder, authentication: Authentication) {
    this.holder = holder;
    this.options = {
      path: join(folder, 'psd.db'),
      authentication,
      memory: 'psd',
      recordCapacity: 10,
      trustBundle: this.authority.trustBundle,
      software: { version: '0.1.0', measurement: new Uint8Array(32) as Digest },
      onBroken: (fault) => {
        this.broken = fault;
      },
    };
    this.device = this.opened();
    const { authority, device } = this;
    this.enrolling = authority.enrolling(value(device.enrolmentRequest()));
    value(
      device.install(
        authority.bytes.certificate(authority.certificate(this.enrolling)),
        authority.bytes.policy(authority.policy(device.id)),
      ),
    );
    value(device.signedTime(authority.bytes.time(device.id, START_MS)));
    const { request } = value(device.fundsRequest(mills(1_000_000n)));
    value(device.fundsGrant(authority.bytes.grant(authority.grant(request))));
  }

  opened(holder = this.holder): Device {
    return value(openDevice({ ...this.options, keyHolder: holder }));
  }

  async restart(): Promise<void> {
    await this.device.close();
    expect(checkStore(this.options.path, undefined, this.holder)).toEqual({ ok: true, value: [] });
    this.device = this.opened();
  }

  async frank(number: number, first = 0, count = 5): Promise<Uint8Array> {
    const batch = batchNumbered(number);
    if (first === 0) value(this.device.openBatch(declarationOf(batch)));
    const { indicia } = value(await this.device.frankChunk(chunkOf(batch, first, pieces(count))));
    return indicia;
  }

  async seal(number: number) {
    value(this.device.closeBatch(batchNumbered(number), 0));
    return value(await this.device.seal(batchNumbered(number), false));
  }

  /** Whether each is authentic under the keys of the enrolment or rotation that was asked for last. */
  expectAuthentic(indicia: Uint8Array, count: number): void {
    const each = indicia.length / count;
    const agreed = agreedKey(this.authority.agreement, importPublicKey(this.enrolling.agreementKey)!, {
      salt: new Uint8Array(0),
      info: macKeyInfo(this.device.id, this.enrolling.epoch, 'indicium'),
      bytes: 32,
    });
    for (let i = 0; i < count; i += 1) {
      const { input, authenticator } = value(parseIndicium(indicia.subarray(i * each, (i + 1) * each)));
      const isAuthentic =
        this.options.authentication === 'mac'
          ? equalMacs(hmacSha256(agreed, input), authenticator)
          : nodeVerification.verifySignature(this.enrolling.publicKey, input, authenticator);
      expect(isAuthentic).toBe(true);
    }
  }

  rotate(): void {
    const { authority, device } = this;
    const asked = value(device.rotateBegin());
    this.enrolling = authority.rotating(asked.request);
    value(device.rotate(authority.bytes.certificate(authority.certificate(this.enrolling))));
  }
}

const LIVES = HOLDERS.flatMap((holder) =>
  (['signature', 'mac'] as const).map((authentication) => ({ ...holder, authentication })),
);

describe.each(LIVES)('A device with its keys $name, $authentication', ({ open, isThere, authentication }) => {
  test.skipIf(!isThere)('franks, seals, rotates and ends, over restarts; what is over is erased', async () => {
    const holder = await open();
    const life = new Life(holder, authentication);
    const { id } = life.device;
    const own = (): string[] => (holder.token === null ? [] : keysOn(holder.token)).filter((name) => name.includes(id));
    const named = (...names: string[]) =>
      holder.token === null ? [] : names.map((name) => `countermark-${id}-${name}`).sort();
    life.expectAuthentic(await life.frank(1), 5);
    await life.restart();
    life.expectAuthentic(await life.frank(1, 5, 12), 12);
    const sealed = [await life.seal(1)];
    expect(own()).toEqual(named('agreement-1', 'signing-1'));
    life.rotate();
    await life.restart();
    // The agreement key checks codes of what is held, until the rotation is confirmed.
    expect(own()).toEqual(named('agreement-2', 'signing-2', ...(authentication === 'mac' ? ['agreement-1'] : [])));
    const rotation = value(life.device.record(2));
    life.expectAuthentic(await life.frank(2), 5);
    sealed.push(await life.seal(2));
    const confirm = (sequence: number, digest: Digest) =>
      value(life.device.confirm(life.authority.bytes.confirmation(id, sequence, digest)));
    expect(rotation.length).toBeGreaterThan(0);
    for (const { sequence, digest } of life.device.records()) confirm(sequence, digest);
    expect(own()).toEqual(named('agreement-2', 'signing-2'));
    const closing = { version: 2, maxUnconfirmedPostageMills: mills(0n), closing: true };
    value(life.device.policy(life.authority.bytes.policy(life.authority.policy(id, closing))));
    const { sequence, digest } = value(life.device.finalStatement());
    confirm(sequence, digest);
    expect(own()).toEqual([]);
    await life.restart();
    expect(life.device.status()).toMatchObject({ state: 'withdrawn', zeroised: true });
    await life.device.close();
    await holder.close();
  });
});

describe.skipIf(skipped)('A device with its keys on a token', () => {
  let holder: KeyHolder;
  let life: Life;
  beforeEach(async () => {
    holder = value(await openTokenKeys(token()));
    life = new Life(holder, 'signature');
  });
  afterEach(async () => {
    await life.device.close();
    await holder.close();
  });
  const code = (result: ReturnType<typeof openDevice>) => (result.ok ? 'ok' : result.rejection.code);
  const reopen = (over: Partial<DeviceOptions> = {}) => openDevice({ ...life.options, keyHolder: holder, ...over });

  /** The store's files as they are now, put back by what this answers. */
  const copied = async (): Promise<() => void> => {
    await life.device.close();
    const names = readdirSync(folder).filter((name) => name.startsWith('psd.db'));
    const copy = mkdtempSync(join(tmpdir(), 'psd-copy-'));
    for (const name of names) copyFileSync(join(folder, name), join(copy, name));
    life.device = life.opened();
    return () => {
      for (const name of readdirSync(folder).filter((each) => each.startsWith('psd.db'))) rmSync(join(folder, name));
      for (const name of names) copyFileSync(join(copy, name), join(folder, name));
      rmSync(copy, { recursive: true });
    };
  };

  test('has no private key of them in its store, and is refused without the token, or on another', async () => {
    await life.device.close();
    const store = readFileSync(join(folder, 'psd.db'));
    expect(store.includes(`pkcs11:countermark-${life.device.id}-signing-1`)).toBe(true);
    expect(code(openDevice(life.options))).toBe('config-invalid');
    const other = value(await openTokenKeys(token('other')));
    expect(code(reopen({ keyHolder: other }))).toBe('hsm-refused');
    await other.close();
    life.device = life.opened();
  });

  test('put back to an older copy of its store is refused at once, with what the token has seen', async () => {
    const putBack = await copied();
    await life.frank(1);
    await life.device.close();
    putBack();
    expect(reopen()).toMatchObject({
      rejection: {
        code: 'store-put-back',
        detail: { device: life.device.id, token: 'psd', storedPieces: 0, seenPieces: 5, seenMills: '3700' },
      },
    });
    expect(value(checkStore(life.options.path, undefined, holder))).toEqual([expect.stringContaining('older copy')]);
    // Nothing of it moved the mark: it stays refused.
    expect(code(reopen())).toBe('store-put-back');
  });

  test('killed between commit and mark starts again and answers the same chunk; a copy from before is refused from then on', async () => {
    const batch = batchNumbered(1);
    value(life.device.openBatch(declarationOf(batch)));
    const chunk = chunkOf(batch, 0, pieces(5));
    const putBack = await copied();
    await life.device.close();
    // The token is there for the signatures, and not for the mark any more.
    const cut: KeyHolder = {
      ...bound(holder),
      marks: {
        last: holder.marks!.last,
        raise: () => {
          throw unavailable();
        },
      },
    };
    life.device = life.opened(cut);
    await expect(life.device.frankChunk(chunk)).rejects.toMatchObject({ code: 'hsm-unavailable' });
    // Debited, and not given away, however it is asked for.
    expect(life.device.status().registers.pieces).toBe(5);
    await expect(life.device.frankChunk(chunk)).rejects.toMatchObject({ code: 'hsm-unavailable' });
    expect(life.broken).toBeNull();
    await life.device.close();
    life.device = life.opened();
    const again = value(await life.device.frankChunk(chunk));
    expect([again.firstPieceNumber, life.device.status().registers.pieces]).toEqual([1, 5]);
    life.expectAuthentic(again.indicia, 5);
    await life.device.close();
    putBack();
    expect(code(reopen())).toBe('store-put-back');
  });

  test('has a whole mark on it wherever a process that raises it is killed: the last that was kept, or the next', async () => {
    const of = 'psd_00000000000000aa' as DeviceId;
    const { module, token: label, pinFile } = token();
    const program = ['--conditions=source', '--import', 'tsx', join(import.meta.dirname, 'mark-raiser.ts')];
    let before = 0;
    for (let round = 0; round < 5; round += 1) {
      const raiser = spawn(process.execPath, [...program, module, label, pinFile, of], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let said = '';
      raiser.stdout.on('data', (text: Buffer) => {
        said += text.toString();
        // Somewhere within one of the next.
        if (said.split('\n').length > 4 + round) setTimeout(() => raiser.kill('SIGKILL'), Math.random() * 40);
      });
      await once(raiser, 'close');
      const acknowledged = Number(said.trim().split('\n').at(-1));
      const seen = holder.marks?.last(of)?.commits ?? 0;
      expect(acknowledged).toBeGreaterThan(before);
      expect([acknowledged, acknowledged + 1]).toContain(seen);
      before = seen;
    }
  });

  test('that another process has used with the same token meanwhile stops', async () => {
    const putBack = await copied();
    await life.device.close();
    const other = join(folder, 'other.db');
    copyFileSync(join(folder, 'psd.db'), other);
    life.device = life.opened();
    const copy = value(reopen({ path: other }));
    await life.frank(1);
    await expect(async () => {
      value(copy.openBatch(declarationOf(batchNumbered(9))));
    }).rejects.toMatchObject({ code: 'device-broken' });
    await copy.close();
    expect(code(reopen({ path: other }))).toBe('store-put-back');
    putBack();
  });

  test('refuses what is asked while the token is away, loses nothing, and goes on when it is back', async () => {
    await life.frank(1);
    (hsm as SoftHsm).unplug();
    const chunk = chunkOf(batchNumbered(1), 5, pieces(4));
    const before = life.device.status();
    await expect(life.device.frankChunk(chunk)).rejects.toMatchObject({ code: 'hsm-unavailable' });
    expect(life.broken).toBeNull();
    (hsm as SoftHsm).plug();
    await expect
      .poll(
        () =>
          life.device.ready().then(
            () => true,
            () => false,
          ),
        { timeout: 20_000 },
      )
      .toBe(true);
    life.expectAuthentic(value(await life.device.frankChunk(chunk)).indicia, 4);
    expect(life.device.status().registers.pieces).toBe(before.registers.pieces + 4);
    await life.restart();
    expect(life.device.status().batch?.pieces).toBe(9);
  });

  test.each([
    ['a token that is not there', () => ({ ...token(), token: 'nobody' }), 'hsm-unavailable'],
    ['a wrong PIN', () => (hsm as SoftHsm).withPin('other', '9999'), 'hsm-refused'],
  ] as const)('starts with %s: it says so', async (_, config, expected) => {
    expect(isHsmConfig(config())).toBe(true);
    expect(await openTokenKeys(config())).toMatchObject({ rejection: { code: expected } });
  });
});

const unavailable = () => new Fault('hsm-unavailable', 'the token is away', { retry: 'later' });
/** The same holder, of which a test exchanges a part. */
const bound = (holder: KeyHolder): KeyHolder => ({
  token: holder.token,
  marks: holder.marks,
  ready: () => holder.ready(),
  make: (device, epoch) => holder.make(device, epoch),
  signingKey: (stored) => holder.signingKey(stored),
  agreementKey: (stored) => holder.agreementKey(stored),
  keepOnly: (device, stored) => {
    holder.keepOnly(device, stored);
  },
  close: () => Promise.resolve(),
});

test('A mark is read as it was written, compares as its commits do, and nothing else is one', () => {
  const mark: DeviceMark = {
    commits: 258,
    nonce: new Uint8Array(16).fill(9),
    sequence: 3,
    pieces: 70_000,
    ascendingMills: mills(1n << 40n),
  };
  expect(markOf(markBytes(mark))).toEqual(mark);
  const next = markBytes({ ...mark, commits: 259, nonce: new Uint8Array(16), pieces: 0 });
  expect(Buffer.compare(next, markBytes(mark))).toBe(1);
  expect(markOf(next.subarray(1))).toBeNull();
  const other = { ...mark, nonce: new Uint8Array(16).fill(8) };
  expect([mark, other, { ...other, commits: 257 }].map((stored) => isPutBack(stored, mark))).toEqual([
    false,
    true,
    true,
  ]);
  // The store may be one ahead: it was killed before the mark was raised.
  expect(isPutBack({ ...other, commits: 259 }, mark)).toBe(false);
  expect(markOf(new Uint8Array(next.length))).toBeNull();
});
