/**
 * `countermark device`: the postal security device as it describes itself, its enrolment (`device-enrolment.ts`), its change of keys
 * (`device-rotate.ts`), and what the server's operators see and do (`device-standing.ts`).
 */
import type { Command } from 'commander';
import { HOST } from '@countermark/protocol/interfaces/host';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { declareEnrolment } from './device-enrolment.ts';
import { declareRotate } from './device-rotate.ts';
import { declareStanding } from './device-standing.ts';
import { withHost } from './host-client.ts';
import { amountText, registerLines, section, timeText } from './summary.ts';
import { formatPairs } from './table.ts';
import { print, printJson } from './terminal.ts';

/** Declares the command. */
export function declare(program: Command): void {
  const device = program
    .command('device')
    .summary(
      'postal security devices: status, enrol, rotate; for operators invite, list, show, evidence, withdraw, ...',
    );
  device.description(
    'The postal security device of this host: status, enrol, rotate. All devices of the server, for its operators: invite, invitations, uninvite, list, show, evidence, withdraw, declare-dead, confirm-dead.',
  );
  withShared(device.command('status').description('Says what the device says of itself.'), [
    'countermark device status',
    'countermark device status --json',
  ]).action(async (options: SharedOptions) => {
    await carryOut(options, async () => {
      await withHost(userPath(options.data), async (host) => {
        const status = await host.call(HOST.device, {});
        if (options.json === true) {
          printJson(status);
          return;
        }
        const { currency: code, exponent } = await host.call(HOST.funds, {});
        const currency = { code, exponent };
        print(
          [
            formatPairs([
              ['Device', status.device],
              ['State', status.state],
              ['Licensee', status.licensee ?? '(none)'],
              ['Procedure', `${status.authentication}, key epoch ${status.epoch}`],
              ...(status.pendingEpoch === null
                ? []
                : [['New keys', `of epoch ${status.pendingEpoch} wait (countermark device rotate goes on)`] as const]),
              ['Records of pieces', status.memory === 'psd' ? 'inside the PSD' : 'in the memory of the host'],
              ['Certified', status.certified ? 'yes' : 'no: every indicium is a SPECIMEN'],
              ['Customers', status.customers.length === 0 ? '(own mail only)' : status.customers.join(', ')],
              ['Open batch', status.openBatch ?? '(none)'],
              ['Last record', status.sequence === 0 ? '(none)' : `${status.sequence}, ${status.head}`],
              [
                'Unconfirmed',
                `${status.unconfirmedRecords} of at most ${status.recordCapacity} records, ${code} ${amountText(status.unconfirmedPostageMills, currency)}`,
              ],
              ['Policy', status.policyVersion === null ? '(none)' : `version ${status.policyVersion}`],
              ['Signed time', status.signedTimeMs === null ? '(none yet)' : timeText(status.signedTimeMs)],
              ...(status.warnsAtMs === null ? [] : [['Warns', timeText(status.warnsAtMs)] as const]),
              ...(status.locksAtMs === null ? [] : [['Locks', timeText(status.locksAtMs)] as const]),
              ...(status.lock === null ? [] : [['Locked', status.lock] as const]),
              ...(status.warning === null ? [] : [['Warning', status.warning] as const]),
              ['Alarms', String(status.alarms)],
              ['Software', status.software],
            ]),
            section('Registers', registerLines(status.registers, currency)),
          ].join('\n\n'),
        );
      });
      return undefined;
    });
  });
  declareEnrolment(device);
  declareRotate(device);
  declareStanding(device);
}
