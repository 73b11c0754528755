/**
 * What people do to each other: each seed has another part of it, with other weights, at other times.
 *
 * Guarantees: each kind draws from a stream of its own, can be left out, and acts with what such a party really has (an owner: the PSD's
 * disk; a host: socket, credential, journal, and bytes that it relays), never with what keys protect. The product's own code
 * judges it; what must hold of it is `standing.ts`. What the machine does is `faults.ts`.
 */
import { HOST } from '@countermark/protocol/interfaces/host';
import type { Checkers } from './checkers.ts';
import { CopiedPsd } from './copied-psd.ts';
import { DirectHost } from './direct-host.ts';
import { DishonestHost, HOST_MISDEEDS } from './dishonest-host.ts';
import { DishonestServer, SERVER_MISDEEDS } from './dishonest-server.ts';
import type { Mailer } from './mailers.ts';
import type { Crossing } from './network.ts';
import type { Observation } from './observation.ts';
import type { Occasions } from './occasions.ts';
import type { Operators } from './operators.ts';
import { psdSocket, STORE } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import { RoleKeyCeremonies } from './role-key-ceremonies.ts';
import type { Standing } from './standing.ts';
import { StolenKeys } from './stolen-keys.ts';
import type { World } from './world.ts';

/** The kinds of what people do. */
export const PEOPLE_FAULTS = [
  'device keys rotated',
  'old keys used',
  'session keys revoked',
  'PSD put back',
  'PSD and host put back',
  'PSD copied',
  'PSD copied in secret',
  'PSD dead',
  'PSD said to be dead',
  'device closed',
  'PSD killed after each reply',
  'role keys rotated',
  ...HOST_MISDEEDS,
  ...SERVER_MISDEEDS,
] as const;

/** What takes piece records of an open batch from its host. */
const JOURNAL_LOST = ['host put back', 'host disk gone', 'PSD and host put back'] as const;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
/** Numbers of copies: no line has them. */
const COPIES_FROM = 500;
const COPIES_MOST = 2;
/** A host whose device is gone asks for it again and again. */
/** A world with more of them takes too long. */
const LINES_MOST = 6;

export type AdversaryOptions = {
  readonly occasions: Occasions;
  /** Of all lines; it grows where a line goes on with a new device. */
  readonly mailers: readonly Mailer[];
  readonly credentialOf: (licensee: string) => string;
  readonly seen: Observation;
  readonly checkers: Checkers;
  readonly standing: Standing;
  readonly operators: Operators;
};

export class Adversary {
  readonly #world: World;
  readonly #options: AdversaryOptions;
  readonly #copies: CopiedPsd[] = [];
  /** Sockets of PSDs that are killed after so many more answers. */
  readonly #killing = new Map<string, number>();
  #dishonest: DishonestHost | undefined;
  #server: DishonestServer | undefined;
  /** Lines whose keys are being rotated. */
  readonly #rotating = new Set<number>();
  readonly #ceremonies: RoleKeyCeremonies;

  constructor(world: World, options: AdversaryOptions) {
    this.#world = world;
    this.#options = options;
    this.#ceremonies = new RoleKeyCeremonies(world, options);
  }

  begin(): void {
    const { occasions, seen, operators } = this.#options;
    if (HOST_MISDEEDS.some((kind) => occasions.has(kind))) {
      this.#dishonest = new DishonestHost(this.#world, { occasions, seen, operators });
      this.#dishonest.begin();
    }
    if (SERVER_MISDEEDS.some((kind) => occasions.has(kind))) {
      this.#server = new DishonestServer(this.#world, { occasions, seen, mailers: this.#options.mailers });
      this.#server.begin();
    }
    occasions.nowAndThen('PSD killed after each reply', 3 * HOUR_MS, (random) => {
      const mailer = this.#anyLine(random);
      if (mailer !== undefined) this.#killing.set(psdSocket(mailer.line.line), random.whole(2, 12));
    });
    occasions.nowAndThen('PSD dead', 12 * HOUR_MS, (random) => {
      this.#die(random, true);
    });
    occasions.nowAndThen('PSD said to be dead', 12 * HOUR_MS, (random) => {
      this.#die(random, false);
    });
    occasions.nowAndThen('device closed', 12 * HOUR_MS, (random) => {
      this.#close(random);
    });
    occasions.nowAndThen('session keys revoked', 8 * HOUR_MS, (random) => {
      const device = seen.deviceOfLine.get(this.#anyLine(random)?.line.line ?? 0);
      if (device !== undefined) this.#does(operators.revokeSessions(device));
    });
    occasions.nowAndThen('device keys rotated', 3 * HOUR_MS, (random) => {
      const mailer = this.#anyLine(random);
      if (mailer !== undefined) this.#does(this.#rotate(mailer));
    });
    occasions.nowAndThen('role keys rotated', HOUR_MS, (random) => {
      this.#does(this.#ceremonies.rotate(random));
    });
    occasions.nowAndThen('PSD put back', 8 * HOUR_MS, (random) => {
      this.#putBack(random, false);
    });
    occasions.nowAndThen('PSD and host put back', 8 * HOUR_MS, (random) => {
      this.#putBack(random, true);
    });
    for (const [kind, secret] of [
      ['PSD copied', false],
      ['PSD copied in secret', true],
    ] as const) {
      occasions.nowAndThen(kind, 6 * HOUR_MS, (random) => {
        this.#copy(random, secret);
      });
    }
  }

  /** Of every answer that leaves a process: a host may end its PSD after each. */
  crossed({ address, process }: Crossing): void {
    const left = this.#killing.get(address);
    if (left === undefined) return;
    if (left === 1) this.#killing.delete(address);
    else this.#killing.set(address, left - 1);
    this.#world.scheduler.after(0.1, this.#world.people, 'a host kills its PSD', () => {
      this.#world.kill(process.name, 'its host kills it');
    });
  }

  /** The device is gone for good, or is said to be: two people end it. */
  #die(random: RandomStream, truly: boolean): void {
    const { occasions, seen, operators, mailers } = this.#options;
    const mailer = this.#anyLine(random);
    if (mailer === undefined || mailers.length > LINES_MOST) return;
    const { line } = mailer.line;
    const device = seen.deviceOfLine.get(line);
    if (device === undefined || seen.branched.has(device)) return;
    seen.dead.add(line);
    if (truly) {
      this.#world.remove(`psd-${line}`, 'it burns');
      // Its host burns with it, or goes on alone: with what it has in its own memory, and with the archive that a restored server is fed from.
      if (random.chance(0.3) && !everyOtherCopyMayGo(occasions)) {
        this.#world.remove(`host-${line}`, 'it burns with its device');
      }
    }
    operators.declareDead(device);
  }

  /** A line is taken down in good order, and its funds go back. Piece records that are gone for good would want somebody to close the batch without them. */
  #close(random: RandomStream): void {
    const { occasions, seen, operators, mailers } = this.#options;
    const mailer = this.#anyLine(random);
    if (mailer === undefined || mailers.length > LINES_MOST || JOURNAL_LOST.some((kind) => occasions.has(kind))) return;
    const device = seen.deviceOfLine.get(mailer.line.line);
    if (device === undefined || seen.branched.has(device)) return;
    operators.close(device, mailer.line.line);
  }

  /** No more of it; what was begun comes to its end. */
  end(): void {
    this.#killing.clear();
    this.#dishonest?.end();
    this.#server?.end();
    for (const copy of this.#copies) copy.end();
    this.#world.count('undetected postage of copies, mills', Number(this.#options.standing.undetectedMills));
  }

  /** Whether nothing that people began is under way. */
  get atRest(): boolean {
    return this.#rotating.size === 0 && this.#ceremonies.atRest;
  }

  /** What does not hold of the keys of roles, in words. */
  contradictions(): string[] {
    return this.#options.occasions.has('role keys rotated') ? this.#ceremonies.contradictions() : [];
  }

  #anyLine(random: RandomStream): Mailer | undefined {
    const open = this.#options.mailers.filter(({ retired }) => !retired);
    return open.length === 0 ? undefined : random.pick(open);
  }

  /** Asks until the device is in its next epoch, whatever stands in the way. */
  async #rotate(mailer: Mailer): Promise<void> {
    const { line } = mailer.line;
    if (this.#rotating.has(line)) return;
    const shown = await mailer.ask(HOST.device, {});
    if (shown?.ok !== true || shown.value.device === '' || this.#rotating.has(line)) return;
    this.#rotating.add(line);
    const to = shown.value.epoch + 1;
    const stolen = this.#options.occasions.has('old keys used') ? StolenKeys.of(this.#world, line) : null;
    for (let again = 1; !mailer.retired; again = Math.min(again * 1.5, 12)) {
      const rotated = await mailer.ask(HOST.rotate, { to });
      if (rotated?.ok === true) {
        this.#world.count('devices rotated');
        break;
      }
      // A device that was put back has lost the keys that its certificate is for: it is withdrawn.
      const code = rotated?.rejection.code;
      if (code === 'device-enrolled' || code === 'device-older') mailer.onHopeless(code);
      // Put back together with its host, it is in an earlier epoch than whoever asks thinks: what was asked for makes no sense any more.
      if (code === 'usage') break;
      await this.#rest(again * 5 * MINUTE_MS);
    }
    this.#rotating.delete(line);
    if (stolen !== null && !mailer.retired) await this.#useOldKeys(mailer, stolen);
  }

  /** A thief uses the keys from before the rotation. */
  async #useOldKeys(mailer: Mailer, keys: StolenKeys): Promise<void> {
    const { occasions, seen } = this.#options;
    const random = this.#world.stream('old keys used');
    const host = this.#hostOf(mailer, random);
    while (!occasions.ended) {
      await this.#rest(random.whole(10, 90) * MINUTE_MS);
      if (!keys.areOver || !occasions.may('old keys used')) continue;
      const made = keys.record();
      if (made !== null) {
        seen.madeWithStolenKeys.add(made.digest);
        await host.submit([made.bytes]);
      }
      const request = keys.fundsRequest(random.whole(1, 40), 5_000n);
      if (request !== null) await host.server('funds', { request });
    }
  }

  /** A PSD's store, or that of its host as well, goes back to a copy from some time before. */
  #putBack(random: RandomStream, withHost: boolean): void {
    const { occasions, seen, checkers } = this.#options;
    const { disks } = this.#world;
    const mailer = this.#anyLine(random);
    if (mailer === undefined) return;
    const { line } = mailer.line;
    const paths = withHost ? [STORE.psd(line), STORE.host(line)] : [STORE.psd(line)];
    if (!paths.every((path) => disks.paths().includes(path)) || !seen.deviceOfLine.has(line)) return;
    const registers = (): string =>
      JSON.stringify(
        disks.rows<Record<string, unknown>>(
          STORE.psd(line),
          'SELECT ascending, received, sequence, pieces FROM device',
        ),
        (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value),
      );
    const before = registers();
    const copies = paths.map((path) => disks.copy(path));
    occasions.later(random.whole(5, 150) * MINUTE_MS, () => {
      if (occasions.ended || mailer.retired || registers() === before) return;
      this.#world.kill(`psd-${line}`, 'its store is put back');
      this.#world.kill(`host-${line}`, 'its store is put back');
      for (const [i, path] of paths.entries()) disks.put(path, copies[i]);
      seen.putBack(line);
      checkers.psdPutBack(line);
      this.#world.count(withHost ? 'PSDs put back with their hosts' : 'PSDs put back');
    });
  }

  #copy(random: RandomStream, secret: boolean): void {
    const { occasions, seen, standing, credentialOf } = this.#options;
    const mailer = this.#anyLine(random);
    if (mailer === undefined || this.#copies.length >= COPIES_MOST || !seen.deviceOfLine.has(mailer.line.line)) return;
    const copy = new CopiedPsd(this.#world, {
      of: mailer.line,
      number: COPIES_FROM + this.#copies.length,
      secret,
      credential: credentialOf(mailer.line.licensee),
      random,
      seen,
      standing,
    });
    this.#copies.push(copy);
    this.#does(
      (async () => {
        while (!occasions.ended) {
          await copy.turn();
          await this.#rest(random.whole(10, 120) * MINUTE_MS);
        }
      })(),
    );
  }

  #hostOf({ line: { line, licensee } }: Mailer, random: RandomStream): DirectHost {
    return new DirectHost(this.#world, {
      socket: psdSocket(line),
      credential: this.#options.credentialOf(licensee),
      random,
    });
  }

  #rest(ms: number): Promise<void> {
    const { scheduler, people } = this.#world;
    return new Promise((resolve) => {
      scheduler.after(ms, people, 'somebody waited', resolve);
    });
  }

  #does(work: Promise<void>): void {
    work.catch((error: unknown) => {
      this.#world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
    });
  }
}

/** Whether a host's archive may be all that there is of records: then it is kept, as people are told (docs/backup.md). */
function everyOtherCopyMayGo(occasions: Occasions): boolean {
  return (
    occasions.has('authority put back') &&
    (occasions.has('server put back') || occasions.has('server confirms and does not log'))
  );
}
