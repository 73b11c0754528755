/**
 * The local interface of the cryptographic device (protocol/interfaces/cryptographic-device.ts), served on its socket.
 *
 * Guarantees that parameters are parsed strictly before anything is done with them. The socket is as private as its
 * directory: whoever reaches it may ask, and gets nothing signed that is not warranted by signed bytes.
 */
import { type RpcHandlers, served } from '@countermark/node-platform/rpc';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import type { Rejection } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import type { Authentication } from './authentication.ts';
import type { Issuing } from './issuing.ts';
import type { RoleKeys } from './role-keys.ts';
import type { SessionAuthority } from './session-authority.ts';

/** What the operations work on. */
export type DeviceParts = {
  readonly roleKeys: RoleKeys;
  readonly authentication: Authentication;
  readonly issuing: Issuing;
  readonly sessionAuthority: SessionAuthority;
};

/** Handlers by the operations' names. */
export function deviceOperations({ roleKeys, authentication, issuing, sessionAuthority }: DeviceParts): RpcHandlers {
  return Object.fromEntries([
    served(CRYPTOGRAPHIC_DEVICE.publicKeys, () =>
      accept({
        keys: roleKeys.all(),
        agreementKey: roleKeys.agreementKey,
        sessionAuthority: sessionAuthority.certificate,
        certificates: roleKeys.certificates(),
      }),
    ),
    served(CRYPTOGRAPHIC_DEVICE.enrol, async ({ request, licensee, certified, known, ...identity }) =>
      named('certificate', await issuing.enrol(request, licensee, certified, known === true, identity)),
    ),
    served(CRYPTOGRAPHIC_DEVICE.identify, async ({ request, policy }) => {
      const issued = await issuing.identify(request, policy);
      if (!issued.ok) return issued;
      const { certificate: authority, chain } = sessionAuthority;
      return accept({ certificate: issued.value, authority, chain });
    }),
    served(CRYPTOGRAPHIC_DEVICE.authenticate, async ({ records }) =>
      accept({
        results: (await authentication.authenticate(records)).map((result) => either('attestation', result)),
      }),
    ),
    served(CRYPTOGRAPHIC_DEVICE.confirm, async ({ items }) =>
      accept({ results: (await authentication.confirm(items)).map((result) => either('confirmation', result)) }),
    ),
    served(CRYPTOGRAPHIC_DEVICE.fund, async ({ request, ...decision }) =>
      named('grant', await issuing.fund(request, decision)),
    ),
    served(CRYPTOGRAPHIC_DEVICE.signPolicy, async ({ policy }) => named('policy', await issuing.signPolicy(policy))),
    served(CRYPTOGRAPHIC_DEVICE.signTime, async ({ device }) => named('time', await issuing.signTime(device))),
    served(CRYPTOGRAPHIC_DEVICE.suspend, async ({ device, licensee, ...words }) =>
      named('suspension', await issuing.suspend(device, licensee, words)),
    ),
    served(CRYPTOGRAPHIC_DEVICE.rotateRoleKey, async ({ role, ceremony }) =>
      named('certificate', await roleKeys.rotate(role, ceremony)),
    ),
    served(CRYPTOGRAPHIC_DEVICE.revokeSessions, ({ device, licensee }) => {
      const revoked = issuing.revokeSessions(device, licensee);
      return revoked.ok ? accept({ epoch: revoked.value }) : revoked;
    }),
  ]);
}

type Named<Name extends string> = { readonly [K in Name]: Uint8Array };

function named<Name extends string>(name: Name, result: Result<Uint8Array>): Result<Named<Name>> {
  return result.ok ? accept({ [name]: result.value } as Named<Name>) : result;
}

function either<Name extends string>(
  name: Name,
  result: Result<Uint8Array>,
): Named<Name> | { readonly rejection: Rejection } {
  return result.ok ? ({ [name]: result.value } as Named<Name>) : { rejection: result.rejection };
}
