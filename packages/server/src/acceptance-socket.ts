/**
 * The socket on which the cryptographic device hands over what it authenticated in sessions (design, 2.7).
 *
 * Guarantees that what comes here is accepted like everything else, after its attestations were verified.
 */
import type { Log } from '@countermark/node-platform/logs';
import { type RpcServer, serveRpc } from '@countermark/node-platform/rpc';
import { ACCEPTANCE } from '@countermark/protocol/interfaces/cryptographic-device';
import { accept } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import type { Acceptance } from './acceptance.ts';

/** Serves the acceptance socket. Faults: those of `serveRpc`. */
export async function serveAcceptance(path: string, acceptance: Acceptance, log: Log): Promise<RpcServer> {
  return serveRpc(
    path,
    {
      [ACCEPTANCE.accept.name]: async (parameters) => {
        const request = parseValue(ACCEPTANCE.accept.request, parameters);
        if (!request.ok) return request;
        const answers = await acceptance.acceptAttested(request.value.device, request.value.items);
        return accept(ACCEPTANCE.accept.answer.toCbor({ answers }));
      },
    },
    {
      onFault: (fault, operation, error) => {
        log.error('An operation failed', error, { fault, operation });
      },
    },
  );
}
