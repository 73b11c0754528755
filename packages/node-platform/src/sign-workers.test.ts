import { afterEach, describe, expect, it } from 'vitest';
import { SignWorkers } from './sign-workers.ts';
import { generateSigningKey, verifyP1363 } from './signing.ts';

const pools: SignWorkers[] = [];
afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close();
});

function pool(...names: string[]): { workers: SignWorkers; keys: Map<string, ReturnType<typeof generateSigningKey>> } {
  const keys = new Map(names.map((name) => [name, generateSigningKey()]));
  const workers = new SignWorkers(new Map([...keys].map(([name, pair]) => [name, pair.privateKey])));
  pools.push(workers);
  return { workers, keys };
}

function payloads(count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, index) =>
    new TextEncoder().encode(`piece ${'x'.repeat(index % 7)} ${String(index)}`),
  );
}

describe('sign workers', () => {
  it.each([0, 1, 15, 16, 17, 256])('signs %i byte strings in order', async (count) => {
    const { workers, keys } = pool('device');
    const publicKey = keys.get('device')?.publicKey;
    if (publicKey === undefined) throw new Error('no key');
    const toBeSigned = payloads(count);
    const signatures = await workers.sign('device', toBeSigned);
    expect(signatures).toHaveLength(count);
    for (const [index, signature] of signatures.entries()) {
      expect(verifyP1363(publicKey, toBeSigned[index] ?? new Uint8Array(), signature)).toBe(true);
    }
  });

  it('keeps keys apart, and batches asked at once apart', async () => {
    const { workers, keys } = pool('confirming', 'attesting');
    const asked = ['confirming', 'attesting', 'confirming'].map(
      async (name) => [name, (await workers.sign(name, payloads(40)))[39]] as const,
    );
    for (const [name, signature] of await Promise.all(asked)) {
      for (const [holder, pair] of keys) {
        const good = verifyP1363(pair.publicKey, payloads(40)[39] ?? new Uint8Array(), signature ?? new Uint8Array());
        expect(good).toBe(holder === name);
      }
    }
  });

  it.each([1, 15, 16, 17, 255])('signs %i inputs that lie one after the other, in order', async (count) => {
    const { workers, keys } = pool('device');
    const publicKey = keys.get('device')?.publicKey;
    if (publicKey === undefined) throw new Error('no key');
    const inputs = new Uint8Array(count * 5).map((_, i) => i);
    const signatures = await workers.signPacked('device', inputs, 5);
    expect(signatures.length).toBe(count * 64);
    for (let i = 0; i < count; i += 1) {
      const signature = signatures.subarray(i * 64, (i + 1) * 64);
      expect(verifyP1363(publicKey, inputs.subarray(i * 5, (i + 1) * 5), signature)).toBe(true);
    }
  });

  it('answers an unknown key with a fault and goes on', async () => {
    const { workers } = pool('device');
    await expect(workers.sign('other', payloads(1))).rejects.toMatchObject({ code: 'signing-failed' });
    await expect(workers.sign('device', payloads(1))).resolves.toHaveLength(1);
  });

  it('fails what is in hand when the threads end', async () => {
    const { workers } = pool('device');
    const asked = workers.sign('device', payloads(4_000));
    await Promise.all([workers.close(), expect(asked).rejects.toMatchObject({ code: 'sign-worker-ended' })]);
    await expect(workers.sign('device', payloads(1))).rejects.toMatchObject({ code: 'sign-worker-ended' });
  });
});
