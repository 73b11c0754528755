// A child process that runs one replay after the other in a bundled world.
//
// Guarantees an outcome for each replay: a child that ends, or says nothing for ten minutes, is a violation of the checker
// `simulation`, and is gone.
import { fork } from 'node:child_process';
import { clearTimeout, setTimeout } from 'node:timers';

const SILENT_MS = 600_000;

export class Child {
  constructor(file) {
    this.process = fork(file, [], {
      execArgv: ['--enable-source-maps'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.ready = new Promise((resolve) => {
      this.process.once('message', resolve);
      // One that ends before it is ready fails its first run.
      this.process.once('exit', resolve);
    });
    this.gone = false;
    this.process.once('exit', () => {
      this.gone = true;
    });
  }

  /** What came of it; a violation where the child says nothing, or ends. */
  async run(replay, whole = false) {
    await this.ready;
    return new Promise((resolve) => {
      const done = (outcome) => {
        clearTimeout(timer);
        this.process.off('message', done);
        this.process.off('exit', ended);
        resolve(outcome);
      };
      const failed = (what) => {
        done({
          replay,
          violation: { checker: 'simulation', what, atMs: 0 },
          events: 0,
          batches: 0,
          counts: [],
          trace: [],
        });
      };
      const ended = () => {
        failed('the child ended');
      };
      const timer = setTimeout(() => {
        this.process.kill('SIGKILL');
        this.gone = true;
        failed('the world hangs');
      }, SILENT_MS);
      if (this.gone) {
        failed('the child ended');
        return;
      }
      this.process.on('message', done);
      this.process.on('exit', ended);
      this.process.send({ replay, whole });
    });
  }

  end() {
    this.process.kill();
  }
}
