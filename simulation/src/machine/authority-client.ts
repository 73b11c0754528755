/**
 * Stands in for the server's way to the postal authority over HTTP: the same calls, over the world's network.
 */
import { rejection } from '@countermark/protocol/rejection';
import { type Result, refuse } from '@countermark/protocol/result';
import type { AuthorityClient } from '@countermark/server/authority-client';
import { CallBroken } from '../network.ts';
import { machine } from './machine.ts';

export type { AuthorityClient };

export function connectAuthority(url: string): AuthorityClient {
  const ask = async <T>(operation: string, parameters: object): Promise<Result<T>> => {
    try {
      return (await machine().network.remote(url, operation, parameters)) as Result<T>;
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
      return refuse(rejection('try-again', { reason: `the authority: ${error.message}` }));
    }
  };
  return {
    deliver: (delivery) => ask('deliver', delivery),
    grants: ({ cursor, digest }, since) => ask('grants', { after: Number(cursor), digest, since }),
    records: (since) => ask('records', { since }),
    programmes: () => ask('programmes', {}),
  };
}
