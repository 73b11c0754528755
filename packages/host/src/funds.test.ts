/**
 * A request for funds at a server that was restored from a backup, and one whose host was killed.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { seal, toBeAuthenticated } from '@countermark/protocol/cose';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { unsealedMessage } from '@countermark/protocol/message';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { mills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { expect, test } from 'vitest';
import { Funds } from './funds.ts';
import { Journal } from './journal.ts';
import { openHostStore } from './journal-schema.ts';

test('A server that does not know the key of a request is given the certificates, and asked once more', async () => {
  const asked: string[] = [];
  const psd = {
    call: async ({ name }: { readonly name: string }) =>
      accept(name === 'status' ? {} : { number: 1, request: new Uint8Array([1]) }),
  };
  const server = {
    fundsRequest: async () => {
      asked.push('funds');
      return refuse(rejection('unknown-device', { device: 'psd_0123456789abcdef#2' }));
    },
  };
  const funds = new Funds(
    psd as never,
    server as never,
    {} as never,
    () => null,
    async () => {
      asked.push('certificates');
      return accept(null);
    },
  );
  expect(await funds.request(1_000n, null)).toMatchObject({ rejection: { code: 'unknown-device' } });
  expect(asked).toEqual(['funds', 'certificates', 'funds']);
});

test('What the device took while the host was killed counts as taken, and nothing that was altered or is not answered yet', () => {
  const folder = mkdtempSync(join(tmpdir(), 'funds-'));
  const store = openHostStore(join(folder, 'host.sqlite'));
  if (!store.ok) throw new Error(store.rejection.code);
  const journal = new Journal(store.value);
  const device = 'psd_0123456789abcdef' as DeviceId;
  const { privateKey, publicKey } = generateSigningKey();
  const grantOf = (number: number): Uint8Array => {
    const unsealed = unsealedMessage(
      FUNDS_GRANT,
      'signature',
      { holder: 'funds', epoch: 1 },
      {
        device,
        licensee: 'lic_one' as LicenseeId,
        number,
        amountMills: mills(1n),
        draws: [],
        receivedMills: mills(BigInt(number)),
        currency: { code: 'USD', exponent: 3 },
        grantedAtMs: 1,
      },
    );
    return seal(unsealed, signP1363(privateKey, toBeAuthenticated(unsealed)));
  };
  const altered = grantOf(2).map((byte, i, all) => (i === all.length - 1 ? byte ^ 1 : byte));
  for (const [number, grant] of [grantOf(1), altered, grantOf(3), grantOf(4)].entries()) {
    journal.grants.addFunds(number + 1, null, grant);
  }
  const keys = () => ({ publicKey: publicKeyBytes(publicKey), authentication: 'signature' as const });
  const funds = new Funds({} as never, {} as never, journal, keys, async () => accept(null));
  funds.noteTaken({
    device,
    funds: { receivedMills: mills(3n), returnedMills: mills(0n), lastGrant: 3 },
  });
  expect(journal.grants.fundsNotTaken(9).map(({ number }) => number)).toEqual([2, 4]);
  store.value.close();
  rmSync(folder, { recursive: true, force: true });
});
