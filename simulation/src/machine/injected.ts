/**
 * What global names mean in the world: linked in wherever one of them is used freely.
 */
export {
  clearTimeout,
  dateNow as simulatedNow,
  mathRandom as simulatedRandom,
  setImmediate,
  setTimeout,
} from './timers.ts';
export { AbortController, AbortSignal } from './abort.ts';
