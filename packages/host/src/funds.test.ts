/**
 * A request for funds at a server that was restored from a backup.
 */
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { expect, test } from 'vitest';
import { Funds } from './funds.ts';

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
  const funds = new Funds(psd as never, server as never, {} as never, async () => {
    asked.push('certificates');
    return accept(null);
  });
  expect(await funds.request(1_000n, null)).toMatchObject({ rejection: { code: 'unknown-device' } });
  expect(asked).toEqual(['funds', 'certificates', 'funds']);
});
