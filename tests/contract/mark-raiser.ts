/**
 * A process that raises the mark of a device on a token as fast as it can, to be killed: `MODULE TOKEN PIN-FILE DEVICE`. Writes each number on
 * stdout once it is kept.
 */
import { writeSync } from 'node:fs';
import type { DeviceId } from '@countermark/protocol/id';
import { mills } from '@countermark/protocol/money';
import { NONCE_BYTES } from '@countermark/psd/shell/device-mark';
import { openTokenKeys } from '@countermark/psd/shell/token-keys';

const [module = '', token = '', pinFile = '', device = ''] = process.argv.slice(2);
const holder = await openTokenKeys({ module, token, pinFile });
if (!holder.ok || holder.value.marks === null) throw new Error('the token cannot be opened');
const { marks } = holder.value;
const of = device as DeviceId;
for (let last = marks.last(of); ; ) {
  const commits = (last?.commits ?? 0) + 1;
  const next = { commits, nonce: new Uint8Array(NONCE_BYTES), sequence: 1, pieces: 1, ascendingMills: mills(1n) };
  marks.raise(of, last, next);
  writeSync(1, `${commits}\n`);
  last = next;
}
