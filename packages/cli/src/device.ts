/**
 * `countermark device`: the postal security device as it describes itself, its enrolment (`device-enrolment.ts`), its change of keys
 * (`device-rotate.ts`), and what the server's operators see and do (`device-standing.ts`).
 */
import type { Command } from 'commander';
import { type DeviceReport, HOST } from '@countermark/protocol/interfaces/host';
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
      'postal security devices: status, enrol, rotate; for operators invite, list, show, close, profile, inspected, evidence, withdraw, ...',
    );
  device.description(
    'The postal security device of this host: status, enrol, rotate. All devices of the server, for its operators: invite, invitations, uninvite, list, show, close, profile, inspected, evidence, withdraw, declare-dead, confirm-dead.',
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
              ...policyLines(status),
              ['Signed time', status.signedTimeMs === null ? '(none yet)' : timeText(status.signedTimeMs)],
              ...(status.warnsAtMs === null ? [] : [['Warns', timeText(status.warnsAtMs)] as const]),
              ...(status.locksAtMs === null ? [] : [['Locks', timeText(status.locksAtMs)] as const]),
              ...(status.lock === null ? [] : [['Locked', status.lock] as const]),
              ...(status.lockLifts === null ? [] : [['Unlocks', status.lockLifts] as const]),
              ...(status.warning === null ? [] : [['Warning', status.warning] as const]),
              ...endLines(status),
              ['Alarms', String(status.alarms)],
              ['Software', `${status.software}, measured ${status.measurement}`],
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

/** How far it has come to its end, where its policy closes it. */
function endLines({ closing, finalSequence, zeroised }: DeviceReport): (readonly [string, string])[] {
  if (!closing) return [];
  if (finalSequence === null) return [['End', 'what it holds is reported first, then it makes its final statement']];
  const keys = zeroised ? 'confirmed, every key erased' : 'its keys are erased when that is confirmed';
  return [['End', `final statement: record ${finalSequence}, ${keys}`]];
}

/** What its policy asks: deadlines, inspection, products. */
function policyLines(status: DeviceReport): (readonly [string, string])[] {
  const { policyVersion, warnAfterDays, lockAfterDays, inspectionLocksAtMs, products, scheme } = status;
  if (policyVersion === null) return [['Policy', '(none)']];
  return [
    ['Policy', `version ${policyVersion}`],
    [
      'Deadlines',
      `warns ${warnAfterDays ?? '?'} days after what is not confirmed, locks after ${lockAfterDays ?? '?'}`,
    ],
    ...(inspectionLocksAtMs === null ? [] : [['Inspection', `before ${timeText(inspectionLocksAtMs)}`] as const]),
    ...(products === null ? [] : [['Products', products.join(', ')] as const]),
    ...(scheme === null ? [] : [['Scheme', String(scheme)] as const]),
  ];
}
