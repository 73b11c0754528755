/**
 * The server's rate limits as its configuration sets them. What is counted, and what is not: `rate-limits.ts`.
 */

/** How many a minute. */
export type Limits = {
  readonly failuresPerAddress: number;
  readonly failuresPerName: number;
  readonly requestsPerPerson: number;
  /** Hosts of one licensee together; a configured credential. */
  readonly requestsPerMachine: number;
};

export const DEFAULT_LIMITS: Limits = {
  failuresPerAddress: 60,
  failuresPerName: 10,
  requestsPerPerson: 600,
  requestsPerMachine: 6_000,
};
