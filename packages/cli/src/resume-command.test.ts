import { expect, test } from 'vitest';
import { program } from './main.ts';
import { resumeCommand } from './resume-command.ts';

async function printed(event: 'npx' | 'start', ...args: string[]): Promise<string> {
  const up = (await program(['up'])).commands.find((command) => command.name() === 'up');
  if (up === undefined) throw new Error('no command up');
  up.parseOptions(args);
  return resumeCommand(up, { npm_lifecycle_event: event });
}

test('what was asked for is asked for again: settings of this start too, without which a held record would be sent', async () => {
  expect(
    await printed(
      ...(['npx', '--data', '/data/one', '--mailing', '/mail/my letters.csv', '--forwarding', 'hold'] as const),
      ...['--hold-for', '2d', '--accept-good', '--no-pages', '--once', '--timeout', '20', '--json'],
    ),
  ).toBe(
    "npx countermark up --mailing '/mail/my letters.csv' --accept-good --no-pages --once --timeout 20 --forwarding hold " +
      '--hold-for 2d --data /data/one --json',
  );
});

test('a refill is not got twice, and what was not said is not said', async () => {
  expect(await printed('npx', '--refill', '250.00')).toBe('npx countermark up');
});

test('paths are absolute, and npm start stays npm start', async () => {
  expect(await printed('start', '--data', 'here')).toBe(`npm start -- --data ${process.cwd()}/here`);
  expect(await printed('start')).toBe('npm start');
});
