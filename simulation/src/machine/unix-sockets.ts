/**
 * Stands in for node-platform/unix-sockets: there are none. Everything that speaks over one is replaced above it (`rpc.ts`,
 * `session-relay.ts`); whatever else tries hears so.
 */
export async function listenPrivately(): Promise<never> {
  throw new Error('there are no sockets in the world');
}

export async function connectPrivately(): Promise<never> {
  return listenPrivately();
}
