import { Fault } from '@countermark/node-platform/fault';
import { rejection } from '@countermark/protocol/rejection';
import { expect, test } from 'vitest';
import { failureOf, Refused } from './failure.ts';

test('a rejection ends with the exit code of the catalogue, and says what to do', () => {
  const failure = failureOf(new Refused(rejection('insufficient-funds', { neededMills: 10, availableMills: 3 })));
  expect(failure).toMatchObject({ code: 'insufficient-funds', exit: 4, detail: { neededMills: 10 } });
  expect(failure.message).toContain('countermark funds refill');
});

test.each([
  ['a party that refused to start', new Fault('party-not-ready', 'x', { retry: 'never', cause: { code: 6 } }), 6],
  ['a party that broke', new Fault('party-not-ready', 'x', { retry: 'later', cause: { code: 1 } }), 70],
  ['a party that is away', new Fault('connection-broken', 'x', { retry: 'now' }), 5],
  ['another that uses the socket', new Fault('socket-in-use', 'x', { retry: 'later' }), 6],
  ['a server that is away', new Fault('internal-fault', 'x', { retry: 'later', cause: 'server-unreachable' }), 5],
  ['a fault of another party', new Fault('internal-fault', 'x', { retry: 'never', cause: 'unexpected' }), 70],
  ['a disk', new Fault('store-write-failed', 'x', { retry: 'never' }), 70],
])('%s', (_, fault, exit) => {
  expect(failureOf(fault).exit).toBe(exit);
});

test('a party that did not start fails as its own rejection does, in its words', () => {
  const refused = rejection('config-invalid', { file: 'pin', reason: 'it is empty' });
  const cause = { code: 2, signal: null, lastWords: ['log'], rejection: refused };
  const failure = failureOf(new Fault('party-not-ready', 'its words', { retry: 'never', cause }));
  expect(failure).toEqual({ code: 'config-invalid', message: 'its words', exit: 2, detail: refused.detail });
});

test('a fault says what it left, and whether the same command helps', () => {
  const message = (retry: 'later' | 'never'): string => failureOf(new Fault('x', 'it broke', { retry })).message;
  expect(message('later')).toBe('It broke. What was answered before is on disk: run the same command again.');
  expect(message('never')).toBe('It broke. What was answered before is on disk.');
});

test('what nobody foresaw ends with 70 and its stack', () => {
  const failure = failureOf(new TypeError('broken invariant'));
  expect(failure).toMatchObject({ exit: 70, message: 'Broken invariant.' });
  expect(failure.stack).toContain('TypeError');
});
