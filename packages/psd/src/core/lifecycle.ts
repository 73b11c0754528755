/**
 * The states of a device and what each of them lets be asked: one table, from which `docs/state/psd.md` is written.
 *
 * Guarantees: the core asks this table before anything else (`refusedIn`), so that what it calls refused is refused, whatever the
 * command says; a test walks every state and every command and finds the state that the table names. What is `taken` is judged
 * further by the command's own function: its preconditions (an open batch, a record of that digest) are no states of the device.
 * Which state a device is in follows from what it holds (`policy.ts`, `stateName`): no flag could contradict it.
 */
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { stateName } from './policy.ts';
import type { DeviceState } from './state.ts';

/** `ended`: withdrawn, and its final statement is made; a device says `withdrawn` of both, and names the statement. */
export type StateName = DeviceStatus['state'] | 'ended';

/**
 * What a command needs to be believed: `host`, nothing (whoever reaches the socket may ask); `shell`, the device's own start;
 * otherwise the type of message, signed, whose verification the step demands.
 */
export const COMMANDS = {
  initialise: { by: 'shell', operation: 'initialise', does: 'makes the keys and the device id, in an empty store' },
  install: { by: 'device-certificate, policy', operation: 'install', does: 'takes certificate and policy together' },
  policy: { by: 'policy', operation: 'policy', does: 'takes a newer policy' },
  time: { by: 'signed-time', operation: 'signed-time', does: 'moves time forward' },
  open: { by: 'host', operation: 'open-batch', does: 'opens a batch' },
  frank: { by: 'host', operation: 'frank-chunk', does: 'debits and franks a chunk' },
  spoil: { by: 'host', operation: 'spoil', does: 'declares pieces spoiled' },
  close: { by: 'host', operation: 'close-batch', does: 'closes the batch: franking in it ends' },
  recount: { by: 'host', operation: 'recount', does: 'checks piece records from host memory' },
  'recount-own': { by: 'shell', operation: 'seal', does: "counts the device's own memory" },
  seal: { by: 'host', operation: 'seal', does: "makes the closed batch's record" },
  confirm: { by: 'confirmation', operation: 'confirm', does: 'deletes the record that was confirmed' },
  'begin-rotation': { by: 'host', operation: 'rotate-begin', does: 'makes the keys of the next epoch' },
  rotate: { by: 'device-certificate', operation: 'rotate', does: 'goes over to the keys of the next epoch' },
  end: { by: 'policy', operation: 'final-statement', does: 'gives its funds back and makes its final statement' },
  'request-funds': { by: 'host', operation: 'funds-request', does: 'asks for funds' },
  'book-funds': { by: 'funds-grant', operation: 'funds-grant', does: 'books a grant of funds' },
} as const satisfies Readonly<Record<string, { by: string; operation: string; does: string }>>;

export type Command = keyof typeof COMMANDS;

/**
 * One answer of the table. `taken`: the states in which the device may be afterwards. `refused`: always, with `wrong-state`.
 * `again`: answered as before, without effect. `repeat`: taken where it was done before, without effect; anything new is refused with `device-locked`.
 */
export type Answer =
  | { readonly kind: 'taken'; readonly to: readonly StateName[] }
  | { readonly kind: 'refused' }
  | { readonly kind: 'again' }
  | { readonly kind: 'repeat' };

const refused: Answer = { kind: 'refused' };
const repeat: Answer = { kind: 'repeat' };
const taken = (...to: StateName[]): Answer => ({ kind: 'taken', to });

const nothingYet = Object.fromEntries(Object.keys(COMMANDS).map((command) => [command, refused])) as Record<
  Command,
  Answer
>;
const enrolled = taken('operational', 'locked', 'withdrawn');
const unlocked = taken('operational', 'locked');
const operational = taken('operational');
const locked = taken('locked');
const withdrawn = taken('withdrawn');
const ended = taken('ended');

export const LIFECYCLE: Readonly<Record<StateName, Readonly<Record<Command, Answer>>>> = {
  uninitialised: { ...nothingYet, initialise: taken('keyed') },
  keyed: { ...nothingYet, install: enrolled, time: taken('keyed') },
  authorised: { ...nothingYet, install: enrolled, policy: enrolled, time: taken('authorised') },
  operational: {
    initialise: refused,
    install: enrolled,
    policy: enrolled,
    time: unlocked,
    open: operational,
    frank: unlocked,
    spoil: operational,
    close: operational,
    recount: operational,
    'recount-own': operational,
    seal: unlocked,
    confirm: operational,
    'begin-rotation': operational,
    rotate: unlocked,
    end: refused,
    'request-funds': operational,
    'book-funds': operational,
  },
  locked: {
    initialise: refused,
    install: enrolled,
    policy: enrolled,
    time: locked,
    open: repeat,
    frank: repeat,
    spoil: locked,
    close: locked,
    recount: locked,
    'recount-own': locked,
    seal: locked,
    confirm: unlocked,
    'begin-rotation': locked,
    rotate: locked,
    end: refused,
    'request-funds': locked,
    'book-funds': locked,
  },
  withdrawn: {
    initialise: refused,
    install: withdrawn,
    policy: withdrawn,
    time: withdrawn,
    open: repeat,
    frank: repeat,
    spoil: withdrawn,
    close: withdrawn,
    recount: withdrawn,
    'recount-own': withdrawn,
    seal: withdrawn,
    confirm: withdrawn,
    'begin-rotation': withdrawn,
    rotate: withdrawn,
    end: taken('ended'),
    'request-funds': withdrawn,
    'book-funds': withdrawn,
  },
  ended: { ...nothingYet, install: ended, policy: ended, time: ended, confirm: ended, end: { kind: 'again' } },
};

/** The state by the table. */
export function lifeState(state: DeviceState): StateName {
  return state.finalSequence === null ? stateName(state) : 'ended';
}

/** The refusal of a command that the table refuses in the device's state, or null. */
export function refusedIn(state: DeviceState, command: Command): Rejection | null {
  const name = lifeState(state);
  if (LIFECYCLE[name][command].kind !== 'refused') return null;
  const { operation } = COMMANDS[command];
  return rejection('wrong-state', { state: stateName(state), operation, ...neededFor(command, name) });
}

function neededFor(command: Command, name: StateName): { readonly needs: string; readonly cure: string } {
  if (name === 'ended') {
    return {
      needs: 'a device that has not made its final statement',
      cure: 'Go on with a new device, enrolled with keys of its own.',
    };
  }
  if (name === 'uninitialised' || name === 'keyed' || name === 'authorised') {
    return { needs: 'an enrolled device with a policy', cure: 'Enrol it first (countermark up does).' };
  }
  return command === 'end'
    ? { needs: 'a policy that closes it', cure: 'An operator of the server closes it (countermark device close).' }
    : { needs: 'an empty store', cure: 'Nothing needs to be done: it was initialised once.' };
}
