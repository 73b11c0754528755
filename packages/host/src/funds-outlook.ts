/**
 * Whether the funds suffice for a mailing, said before it begins: what is missing, what a refill could get, what will happen.
 *
 * Pure: amounts in, sentences for people out. Says nothing where the funds suffice. What it reckons with may change while the
 * mailing is franked; the device and the server decide.
 */
import { type Currency, decimalMills, formatMills } from '@countermark/protocol/money';

export type FundsSituation = {
  /** What the mailing costs that is not franked yet. */
  readonly neededMills: bigint;
  /** What the device has. */
  readonly availableMills: bigint;
  /** What the deposit at the server holds; null where the server does not say. */
  readonly depositMills: bigint | null;
  /** The most that the device may hold by its policy; null where it is not known. */
  readonly highestMills: bigint | null;
  /** Whether the host asks for funds by itself while it franks. */
  readonly automatic: boolean;
  readonly currency: Currency;
};

/** At most one warning of a few sentences. */
export function fundsWarnings(situation: FundsSituation): readonly string[] {
  const { neededMills, availableMills, depositMills, highestMills, automatic, currency } = situation;
  const missingMills = neededMills - availableMills;
  if (missingMills <= 0n) return [];
  const amount = (mills: bigint): string => formatMills(mills, currency);
  const said = [
    `The mailing needs ${amount(neededMills)} and the device has ${amount(availableMills)}: ${amount(missingMills)} are missing.`,
  ];
  const inDepositMills = depositMills === null || depositMills > 0n ? depositMills : 0n;
  const short = inDepositMills !== null && inDepositMills < missingMills;
  if (inDepositMills === null) said.push('What the deposit holds is not known: the server does not say.');
  if (short) {
    said.push(
      `The deposit holds ${amount(depositMills ?? 0n)}: ${amount(missingMills - inDepositMills)} more must be paid in, or franking stops before the end.`,
    );
  }
  const roomMills = highestMills === null ? missingMills : highestMills - availableMills;
  const atOnceMills = roomMills < missingMills ? (roomMills < 0n ? 0n : roomMills) : missingMills;
  if (highestMills !== null && roomMills < missingMills) {
    said.push(
      `The device may hold at most ${amount(highestMills)}: it must be refilled ${automatic ? 'several times' : 'again, each time that franking stops,'} while this mailing is franked.`,
    );
  }
  if (automatic) said.push('The host asks for refills by itself while it franks.');
  else {
    const payableMills = short && inDepositMills < atOnceMills ? inDepositMills : atOnceMills;
    const after = 'Franking stops when the funds are used up, and the same command goes on after a refill';
    said.push(
      payableMills > 0n
        ? `${after}: countermark funds refill ${decimalMills(payableMills, currency.exponent)}`
        : `${after}.`,
    );
  }
  return [said.join(' ')];
}
