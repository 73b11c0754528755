/**
 * Stands in for the postal authority's HTTP interface: deliveries in, grants out, over the world's network.
 */
import type { HttpOptions } from '@countermark/authority/http';
import { recordsAfter } from '@countermark/authority/record-list';
import type { Digest } from '@countermark/protocol/digest';
import { errorText } from '@countermark/node-platform/fault';
import type { Delivery, HistoryPoint } from '@countermark/protocol/interfaces/delivery';
import type { Evidence } from '@countermark/protocol/interfaces/evidence';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { ProcessEnded } from '../process.ts';
import { machine, runningProcess } from './machine.ts';

/** A list of grants ends after so many. */
const GRANTS = 1_000;

export async function authorityHttp(options: HttpOptions): Promise<{
  listen(at: { readonly host: string; readonly port: number }): Promise<string>;
  close(): Promise<void>;
}> {
  return {
    listen: async ({ host, port }) => {
      const url = `http://${host}:${port}`;
      machine().network.serve(url, {
        process: runningProcess(),
        handle: async (operation, parameters): Promise<Result<unknown>> => {
          try {
            return await handled(options, operation, parameters);
          } catch (error) {
            if (error instanceof ProcessEnded) throw error;
            options.log.error('A request failed', error, { operation });
            return refuse(rejection('try-again', { reason: errorText(error).slice(0, 200) }));
          }
        },
      });
      return url;
    },
    close: async () => undefined,
  };
}

async function handled(options: HttpOptions, operation: string, parameters: unknown): Promise<Result<unknown>> {
  switch (operation) {
    case 'deliver':
      return accept(await options.takeIn(parameters as Delivery));
    case 'evidence':
      return accept(await options.takeInEvidence(parameters as Evidence));
    case 'grants': {
      const { after, digest, since } = parameters as {
        readonly after: number;
        readonly digest: Digest | null;
        readonly since: HistoryPoint | undefined;
      };
      await options.grantsAreBooked(after);
      const isKnown =
        (since === undefined || (await options.store.cameBy(since))) &&
        (digest === null || (await options.store.gave(after, digest)));
      if (!isKnown) {
        return accept({ grants: [], evaluatedThrough: 0, continues: false });
      }
      // In this order, as the real one: every grant up to this position is among those that are read next.
      const evaluated = await options.evaluatedThrough();
      const found = await options.store.grants(after, GRANTS + 1);
      const whole = found.length <= GRANTS;
      return accept({ grants: found.slice(0, GRANTS), evaluatedThrough: whole ? evaluated : 0, continues: true });
    }
    case 'records':
      return accept(
        await recordsAfter(options.store, (parameters as { readonly since: HistoryPoint | undefined }).since),
      );
    case 'programmes':
      return accept(
        JSON.stringify({
          programmes: options.programmes.map(({ canonical }) => JSON.parse(canonical) as unknown),
        }),
      );
    default:
      return refuse(rejection('unknown-operation', { operation }));
  }
}
