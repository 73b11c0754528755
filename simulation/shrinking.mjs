// Makes a failing run small: fewer kinds of faults, fewer mailings, fewer faults, as long as the same checker fails.
//
// Guarantees that what is returned was run and failed in the same checker as the whole run; where the whole run does not fail it is
// returned as it is. Does not look for the smallest run of all: each step keeps what helped.

/** The most mailings and faults that are worth trying to bound. */
const MAILINGS_MOST = 64;
const FAULTS_MOST = 1_024;

/** `play` runs a replay and resolves with its outcome; `say` is told of each step that helped. */
export async function shrink(whole, play, say = () => undefined) {
  const first = await play(whole);
  if (first.violation === null) return whole;
  const { checker } = first.violation;
  const fails = async (replay) => (await play(replay)).violation?.checker === checker;

  let smallest = whole;
  for (const kind of first.faultKinds ?? []) {
    const without = [...(smallest.without ?? []), kind];
    if (!(await fails({ ...smallest, without }))) continue;
    smallest = { ...smallest, without };
    say(`It fails without ${kind}, too.`);
  }
  for (const [bound, most] of [
    ['mailings', MAILINGS_MOST],
    ['faults', FAULTS_MOST],
  ]) {
    // By bisection: below `least` it does not fail, at `enough` it does.
    let least = bound === 'mailings' ? 1 : 0;
    let enough = smallest[bound] ?? most;
    const beyond = enough;
    while (least < enough) {
      const middle = Math.floor((least + enough) / 2);
      if (await fails({ ...smallest, [bound]: middle })) enough = middle;
      else least = middle + 1;
    }
    if (enough === beyond) continue;
    smallest = { ...smallest, [bound]: enough };
    say(`${enough} ${bound} are enough.`);
  }
  return smallest;
}
