/**
 * The order in which vitest takes the files: those known to take longest begin first, so that none of them is what everything waits for in
 * the end. vitest knows by itself only what it has run before in this checkout, so nothing in a fresh one.
 *
 * A file that is not named here comes after them, in vitest's own order; a name without a file changes nothing.
 */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const LONGEST = [
  'tests/ways/ways.test.ts',
  'tests/crash/kills.test.ts',
  'tests/loop/cli-interruption.test.ts',
  'tests/faults/killed-processes.test.ts',
  'tests/crash/interruptions.test.ts',
  'tests/loop/check.test.ts',
  'tests/loop/backup.test.ts',
  'tests/loop/operations.test.ts',
  'tests/loop/cli-commands.test.ts',
  'tests/loop/closing.test.ts',
  'tests/loop/start.test.ts',
  'tests/faults/host-journal.test.ts',
  'tests/faults/disk-full.test.ts',
  'tests/crash/syscalls.test.ts',
  'tests/loop/role-keys.test.ts',
  'tests/loop/psd-token.test.ts',
  'tests/loop/rotation.test.ts',
  'tests/loop/hours-down.test.ts',
  'tests/loop/cli-usage.test.ts',
  'simulation/worlds.test.ts',
  'fuzz/src/fuzz.test.ts',
  'packages/indicia/src/reading.test.ts',
  'tests/contract/server-settlement.test.ts',
  'tests/house/start.test.ts',
  'tests/contract/psd-keys.test.ts',
  'packages/cryptographic-device/src/role-keys.test.ts',
];

/** Among the files of one project; projects keep their order. */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const place = LONGEST.findIndex((name) => moduleId.endsWith(name));
      return place < 0 ? LONGEST.length : place;
    };
    const sorted = await super.sort(files);
    const projects = [...new Set(sorted.map(({ project }) => project.name))];
    const order = ({ project }: TestSpecification): number => projects.indexOf(project.name);
    return sorted.sort((a, b) => order(a) - order(b) || rank(a) - rank(b));
  }
}
