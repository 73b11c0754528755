/**
 * `countermark device rotate`: the device goes over to new keys.
 */
import type { Command } from 'commander';
import { HOST, type RotateAnswer } from '@countermark/protocol/interfaces/host';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { refuseUsage } from './failure.ts';
import { withHost } from './host-client.ts';
import { timeText } from './summary.ts';
import { print, printJson } from './terminal.ts';

type RotateOptions = SharedOptions & { readonly to?: string };

/** Declares the command. */
export function declareRotate(device: Command): void {
  withShared(
    device
      .command('rotate')
      .description(
        'Takes the device to new keys: certified by the server on the word of the old ones, and in use with the record that says so. No batch may be open. Interrupted, it is asked again and goes on where it stood; records that wait under the old key stay good.',
      )
      .option(
        '--to <epoch>',
        'the key epoch to come to; asked again, a device that is there stays there (default: the next)',
      ),
    ['countermark device rotate', 'countermark device rotate --to 2 --json'],
  ).action(async (options: RotateOptions) => {
    await carryOut(options, async () => {
      const to = options.to === undefined ? undefined : epochOf(options.to);
      const answer = await withHost(userPath(options.data), (host) =>
        host.call(HOST.rotate, to === undefined ? {} : { to }),
      );
      if (options.json === true) printJson(answer);
      else print(answerText(answer));
      return undefined;
    });
  });
}

function epochOf(text: string): number {
  const epoch = Number(text);
  if (!/^[1-9]\d{0,4}$/.test(text)) refuseUsage(`${text} is no key epoch: a whole number from 1 is expected.`);
  return epoch;
}

function answerText({ rotated, resumed, epoch, record, device }: RotateAnswer): string {
  const came =
    rotated || resumed
      ? `The device ${device.device} has come to key epoch ${epoch}.`
      : `The device ${device.device} is in key epoch ${epoch} already.`;
  if (record === null) return came;
  const { sequence, state, holdUntilMs } = record;
  const how =
    state === 'held' && holdUntilMs !== null
      ? `is held until ${timeText(holdUntilMs)}`
      : state === 'confirmed'
        ? 'is confirmed'
        : 'waits for its confirmation';
  return `${came}\nThe record ${sequence} that says so ${how}.`;
}
