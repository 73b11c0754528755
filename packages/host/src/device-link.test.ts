/**
 * What a device is given of the policies that its server signs.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sha256 } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope, seal } from '@countermark/protocol/cose';
import { type Digest, digestOf } from '@countermark/protocol/digest';
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { parsePayload, unsealedMessage } from '@countermark/protocol/message';
import { POLICY, type Policy } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse, type Result } from '@countermark/protocol/result';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DeviceLink } from './device-link.ts';
import { Journal } from './journal.ts';
import { openHostStore } from './journal-schema.ts';
import type { PsdClient } from './psd-client.ts';
import type { ServerClient } from './server-client.ts';

const DEVICE = 'psd_0123456789abcdef' as DeviceId;
const LICENSEE = 'lic_one' as LicenseeId;

const POLICY_VALUES: Policy = {
  device: DEVICE,
  licensee: LICENSEE,
  version: 3,
  currency: { code: 'USD', exponent: 3 },
  lowestPostageMills: mills(1n),
  highestPostageMills: mills(100_000n),
  highestFundsMills: mills(50_000_000n),
  maxUnconfirmedBatches: 1_000,
  maxUnconfirmedPostageMills: mills(1_000_000_000n),
  warnAfterDays: 28,
  lockAfterDays: 90,
  maxPiecesPerBatch: 2_000_000,
  maxCellsPerBatch: 1_024,
  memoryPieces: 2_000_000,
  customers: ['alder' as CustomerId],
};

/** Signed by whoever: only the device looks at that. */
function signed(changes: Partial<Policy>): Uint8Array {
  const message = unsealedMessage(
    POLICY,
    'signature',
    { holder: 'policy', epoch: 1 },
    { ...POLICY_VALUES, ...changes },
  );
  return seal(message, new Uint8Array(64));
}

/** A device that takes what is above its own. */
class Psd implements PsdClient {
  version = 3;
  customers: readonly string[] = [];
  digest: Digest | undefined;
  limitMills = 0n;

  call<Request, Answer>(of: Operation<Request, Answer>, request: Request): Promise<Result<Answer>> {
    if (of.name === PSD.policy.name) this.#given((request as { policy: Uint8Array }).policy);
    if (of.name === PSD.policy.name && this.#stale) {
      return Promise.resolve(refuse(rejection('stale-policy', { version: this.version, current: this.version })));
    }
    const status = {
      device: DEVICE,
      policyVersion: this.version,
      policyDigest: this.digest,
      customers: this.customers,
    };
    return Promise.resolve(accept(status as Answer));
  }

  close(): void {
    // Nothing is held.
  }

  install(policy: Uint8Array): void {
    this.version = 0;
    this.#given(policy);
  }

  #stale = false;

  #given(bytes: Uint8Array): void {
    const envelope = parseEnvelope(bytes);
    if (!envelope.ok) throw new Error(envelope.rejection.code);
    const policy = parsePayload(POLICY, envelope.value);
    if (!policy.ok) throw new Error(policy.rejection.code);
    this.#stale = policy.value.version <= this.version;
    if (this.#stale) return;
    this.version = policy.value.version;
    this.customers = policy.value.customers;
    this.limitMills = policy.value.maxUnconfirmedPostageMills;
    this.digest = digestOf(messageDigest(envelope.value, sha256));
  }
}

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'link-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

test.each<readonly [string, Partial<Policy>, readonly number[]]>([
  ['the same', {}, [3]],
  ['other customers', { customers: ['birch' as CustomerId] }, [3, 4]],
  ['other limits', { maxUnconfirmedPostageMills: mills(5n) }, [3, 4]],
])('A server that says %s under the version that the device has', async (_, changes, asked) => {
  const store = openHostStore(join(folder, 'host.sqlite'));
  if (!store.ok) throw new Error(store.rejection.code);
  const psd = new Psd();
  psd.install(signed({}));
  const above: number[] = [];
  const server = {
    policy: async (_device: DeviceId, than: number) => {
      above.push(than);
      // What it says stands under version 3; what is asked above that it signs anew.
      return accept(signed({ ...changes, version: Math.max(3, than) }));
    },
  } as unknown as ServerClient;
  const link = new DeviceLink(psd, server, new Journal(store.value), LICENSEE);
  expect((await link.refreshPolicy(DEVICE)).ok).toBe(true);
  expect(above).toEqual(asked);
  const says = { ...POLICY_VALUES, ...changes };
  expect([psd.version, psd.customers, psd.limitMills]).toEqual([
    asked.at(-1),
    says.customers,
    says.maxUnconfirmedPostageMills,
  ]);
  expect(link.policy()?.version ?? 3).toBe(asked.at(-1));
  store.value.close();
});
