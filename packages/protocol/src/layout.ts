/**
 * Layouts of the indicium: which bytes stand where in the symbol on a mail piece. Data: a post may want another.
 *
 * Guarantees: the PSD builds these bytes itself from its registers; the authenticator covers all of them, after a
 * context that no COSE structure starts with, so an indicium cannot stand in for a message. The specimen flag is among
 * the authenticated bytes.
 * Does not draw anything: `indicia` does.
 */
import { concat, utf8 } from './bytes.ts';
import type { Authentication } from './cose.ts';
import { type DeviceId, deviceIdBytes, deviceIdOf } from './id.ts';
import { type Mills, mills } from './money.ts';
import { rejection } from './rejection.ts';
import { accept, type Result, refuse } from './result.ts';

export type Layout = {
  readonly number: number;
  readonly authentication: Authentication;
  /** Bytes before the authenticator. */
  readonly bodyBytes: number;
  readonly authenticatorBytes: number;
};

/** Body, big-endian: layout u8, flags u8 (bit 0: specimen), device 8, key epoch u16, piece number u32, postage u32 mills,
 *  mailing day u16 (days since 2020-01-01), ascending register after this piece u48 mills. */
export const LAYOUTS: Readonly<Record<Authentication, Layout>> = {
  signature: { number: 1, authentication: 'signature', bodyBytes: 28, authenticatorBytes: 64 },
  mac: { number: 2, authentication: 'mac', bodyBytes: 28, authenticatorBytes: 32 },
};

/** The largest postage of a piece that a layout can carry. */
export const MAX_INDICIUM_POSTAGE_MILLS = 0xffff_ffffn;
/** The largest ascending register that a layout can carry. */
export const MAX_ASCENDING_MILLS = (1n << 48n) - 1n;
const SPECIMEN = 1;
const FIRST_DAY_MS = Date.UTC(2020, 0, 1);
const DAY_MS = 86_400_000;

/** What precedes the body in the bytes that are signed or coded. */
const CONTEXT = concat([utf8('countermark/indicium'), Uint8Array.of(0)]);

export type Indicium = {
  readonly layout: Layout;
  readonly specimen: boolean;
  readonly device: DeviceId;
  readonly epoch: number;
  readonly pieceNumber: number;
  readonly postageMills: Mills;
  /** ISO 8601 calendar day. */
  readonly mailingDate: string;
  /** The ascending register with this piece. */
  readonly ascendingMills: Mills;
};

/** The mailing day as the layout counts it. @throws RangeError outside 2020-01-01..2199-06-06 */
export function mailingDay(date: string): number {
  const day = (Date.parse(`${date}T00:00:00Z`) - FIRST_DAY_MS) / DAY_MS;
  if (!Number.isInteger(day) || day < 0 || day > 0xffff)
    throw new RangeError(`The mailing date ${date} does not fit in an indicium.`);
  return day;
}

/** What is the same in every indicium of a batch: layout, flags, device, epoch; and the mailing day. */
export type IndiciumFrame = { readonly layout: Layout; readonly head: Uint8Array; readonly day: number };

/** Prepares what is the same in every indicium of a batch. */
export function indiciumFrame(
  layout: Layout,
  specimen: boolean,
  device: DeviceId,
  epoch: number,
  mailingDate: string,
): IndiciumFrame {
  const head = new Uint8Array(12);
  head[0] = layout.number;
  head[1] = specimen ? SPECIMEN : 0;
  head.set(deviceIdBytes(device), 2);
  head[10] = epoch >> 8;
  head[11] = epoch & 255;
  return { layout, head, day: mailingDay(mailingDate) };
}

/** Length of what is authenticated: context and body. */
export function indiciumInputBytes(layout: Layout): number {
  return CONTEXT.length + layout.bodyBytes;
}

/** Writes context and body of one indicium, the bytes to be authenticated, at `offset` of `target`. */
export function writeIndiciumInput(
  target: Uint8Array,
  offset: number,
  frame: IndiciumFrame,
  pieceNumber: number,
  postageMills: bigint,
  ascendingMills: bigint,
): void {
  if (postageMills > MAX_INDICIUM_POSTAGE_MILLS || ascendingMills > MAX_ASCENDING_MILLS) {
    throw new RangeError('An amount does not fit in the layout.');
  }
  target.set(CONTEXT, offset);
  const body = offset + CONTEXT.length;
  target.set(frame.head, body);
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  view.setUint32(body + 12, pieceNumber);
  view.setUint32(body + 16, Number(postageMills));
  view.setUint16(body + 20, frame.day);
  const ascending = Number(ascendingMills);
  view.setUint16(body + 22, Math.floor(ascending / 0x1_0000_0000));
  view.setUint32(body + 24, ascending % 0x1_0000_0000);
}

/** The indicium of authenticated input and authenticator: body, then authenticator. */
export function indiciumBytes(input: Uint8Array, authenticator: Uint8Array): Uint8Array {
  return concat([input.subarray(CONTEXT.length), authenticator]);
}

/** Parses a symbol's payload. Nothing is verified. Rejection: `malformed`. */
export function parseIndicium(
  payload: Uint8Array,
): Result<{ indicium: Indicium; input: Uint8Array; authenticator: Uint8Array }> {
  const layout = Object.values(LAYOUTS).find((candidate) => candidate.number === payload[0]);
  if (layout === undefined) return refuse(rejection('malformed', { path: 'layout', reason: 'this layout is unknown' }));
  if (payload.length !== layout.bodyBytes + layout.authenticatorBytes) {
    return refuse(
      rejection('malformed', {
        path: '(whole)',
        reason: `layout ${layout.number} has ${layout.bodyBytes + layout.authenticatorBytes} bytes`,
      }),
    );
  }
  const flags = payload[1] as number;
  if (flags > SPECIMEN) return refuse(rejection('malformed', { path: 'flags', reason: 'unknown flags' }));
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return accept({
    indicium: {
      layout,
      specimen: flags === SPECIMEN,
      device: deviceIdOf(payload.subarray(2, 10)),
      epoch: view.getUint16(10),
      pieceNumber: view.getUint32(12),
      postageMills: mills(BigInt(view.getUint32(16))),
      mailingDate: new Date(FIRST_DAY_MS + view.getUint16(20) * DAY_MS).toISOString().slice(0, 10),
      ascendingMills: mills(BigInt(view.getUint16(22)) * 0x1_0000_0000n + BigInt(view.getUint32(24))),
    },
    input: concat([CONTEXT, payload.subarray(0, layout.bodyBytes)]),
    authenticator: payload.slice(layout.bodyBytes),
  });
}
