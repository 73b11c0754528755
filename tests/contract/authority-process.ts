/**
 * An authority for tests: the one that the process starts, listening on a free port, with a folder of its own.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Authority, startAuthority } from '@countermark/authority/authority';
import { type Config, parseConfig } from '@countermark/authority/config';
import { openLog } from '@countermark/node-platform/logs';
import type { Digest } from '@countermark/protocol/digest';
import {
  type Delivery,
  deliveryAnswersSchema,
  deliverySchema,
  grantListSchema,
} from '@countermark/protocol/interfaces/delivery';
import { CREDIT_GRANT, DISCOUNT_GRANT, type Grant } from '@countermark/protocol/messages/grant';
import type { Rejection } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { nodeVerification } from '@countermark/node-platform/verification';
import { formatTrustBundle } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import type { Roles } from './authority-evidence.ts';

export type Answers = {
  readonly cursor: number;
  readonly results: readonly { readonly outcome: string; readonly rejection?: Rejection }[];
};

export type IssuedGrant = {
  readonly cursor: number;
  readonly kind: 'discount' | 'credit';
  readonly grant: Grant;
  readonly digest: Digest;
};

export const quiet = openLog('authority', { write: () => undefined });

/** The value, or the test fails with the rejection. */
export function valueOf<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.rejection.code} ${JSON.stringify(result.rejection.detail)}`);
  return result.value;
}

export class TestAuthority {
  readonly config: Config;
  readonly folder: string;
  #running: Authority | undefined;
  readonly #keptFolder: boolean;

  constructor(roles: Roles, settings: { database?: string; programmes?: string[]; folder?: string } = {}) {
    const { folder, ...others } = settings;
    this.folder = folder ?? mkdtempSync(join(tmpdir(), 'authority-'));
    this.#keptFolder = folder !== undefined;
    const trustBundle = join(this.folder, 'trust-bundle.json');
    writeFileSync(trustBundle, formatTrustBundle(roles.bundle));
    this.config = valueOf(
      parseConfig({
        data: join(this.folder, 'authority'),
        listen: { host: '127.0.0.1', port: 0 },
        trustBundle,
        credential: randomBytes(32).toString('hex'),
        ...others,
      }),
    );
  }

  async start(): Promise<void> {
    this.#running = valueOf(await startAuthority(this.config, () => 1_772_409_600_000, quiet));
  }

  get url(): string {
    return this.#running!.url;
  }

  get grantingKey(): Uint8Array {
    return this.#running!.grantingKey;
  }

  async stop(): Promise<void> {
    await this.#running?.close();
    this.#running = undefined;
  }

  async discard(): Promise<void> {
    await this.stop();
    if (!this.#keptFolder) rmSync(this.folder, { recursive: true, force: true });
  }

  request(
    path: string,
    init: Omit<RequestInit, 'headers'> & { headers?: Record<string, string> } = {},
  ): Promise<Response> {
    return fetch(`${this.url}${path}`, {
      ...init,
      headers: { authorization: `Bearer ${this.config.credential}`, ...init.headers },
    });
  }

  post(body: Uint8Array): Promise<Response> {
    return this.request('/v1/records', {
      method: 'POST',
      headers: { 'content-type': 'application/cbor' },
      body: body as Uint8Array<ArrayBuffer>,
    });
  }

  async deliver(delivery: Delivery): Promise<Answers> {
    const response = await this.post(encodeWith(deliverySchema, delivery));
    if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`);
    return valueOf(parseBytes(deliveryAnswersSchema, new Uint8Array(await response.arrayBuffer())));
  }

  /** All grants, verified, once programmes were evaluated through the cursor. */
  async grants(through: number): Promise<IssuedGrant[]> {
    for (;;) {
      const response = await this.request('/v1/grants?after=0');
      const bytes = new Uint8Array(await response.arrayBuffer());
      const listed = valueOf(parseBytes(grantListSchema, bytes, { maxBytes: 1 << 26, maxDepth: 8 }));
      // Asking is the awaited event: the answer says how far the authority is.
      if (listed.evaluatedThrough < through) continue;
      return listed.grants.map(({ cursor, grant, digest }) => ({ ...this.verified(grant), cursor, digest }));
    }
  }

  verified(grant: Uint8Array): { kind: 'discount' | 'credit'; grant: Grant } {
    const publicKey = this.grantingKey;
    const trust = {
      port: nodeVerification,
      keys: ({ holder }: { holder: string }) =>
        holder === 'granting' ? { publicKey, authentication: 'signature' as const } : null,
    };
    const discount = verifyMessage(DISCOUNT_GRANT, grant, trust);
    if (discount.ok) return { kind: 'discount', grant: discount.value.message };
    return { kind: 'credit', grant: valueOf(verifyMessage(CREDIT_GRANT, grant, trust)).message };
  }

  async totals(query: string): Promise<{
    cursor: number;
    rows: { values: Record<string, string | null>; pieces: string; postageMills: string; differenceMills: string }[];
  }> {
    const response = await this.request(`/v1/totals?${query}`);
    if (response.status !== 200) throw new Error(await response.text());
    return (await response.json()) as Awaited<ReturnType<TestAuthority['totals']>>;
  }
}
