/**
 * Stands in for `node:fs` and `node:fs/promises` under the parties: the world's files, in memory.
 *
 * What is here is what the parties use; anything else is not linked, and the build says so.
 */
import { Readable, Writable } from 'node:stream';
import { machine } from './machine.ts';

/** Handles of open files: the path each stands for. */
const handles = new Map<number, string>();
let nextHandle = 100;

export function existsSync(path: string): boolean {
  return machine().files.has(path);
}

export function mkdirSync(): void {
  // Folders are only prefixes of names.
}

export function chmodSync(): void {
  // There is nobody else.
}

export function openSync(path: string, flags: string): number {
  if (flags.startsWith('w')) machine().files.write(path, '');
  const handle = (nextHandle += 1);
  handles.set(handle, path);
  return handle;
}

export function writeSync(handle: number, bytes: Uint8Array): number {
  const path = handles.get(handle) ?? '';
  machine().files.write(path, Buffer.concat([machine().files.read(path), bytes]));
  return bytes.length;
}

export function fsyncSync(): void {
  // Every write is durable here.
}

export function closeSync(handle: number): void {
  handles.delete(handle);
}

export function statSync(path: string): { readonly size: number; readonly mode: number } {
  return { size: machine().files.read(path).length, mode: 0o600 };
}

export function readFileSync(path: string, encoding?: 'utf8'): string | Buffer {
  const content = machine().files.read(path);
  return encoding === undefined ? content : content.toString(encoding);
}

export function writeFileSync(path: string, content: string | Uint8Array): void {
  machine().files.write(path, content);
}

export function renameSync(from: string, to: string): void {
  machine().files.rename(from, to);
}

export function rmSync(path: string): void {
  machine().files.remove(path);
}

export function unlinkSync(path: string): void {
  machine().files.remove(path);
}

export function readdirSync(path: string): string[] {
  return machine().files.list(path);
}

export function createReadStream(path: string): Readable {
  const { files } = machine();
  return Readable.from(
    (function* () {
      yield files.read(path);
    })(),
  );
}

export function createWriteStream(path: string): Writable {
  const { files } = machine();
  const parts: Buffer[] = [];
  return new Writable({
    write(chunk: Buffer | string, _encoding, done) {
      parts.push(Buffer.from(chunk));
      done();
    },
    final(done) {
      files.write(path, Buffer.concat(parts));
      done();
    },
  });
}

export async function readFile(path: string, encoding?: 'utf8'): Promise<string | Buffer> {
  return readFileSync(path, encoding);
}

export async function readdir(path: string): Promise<string[]> {
  return readdirSync(path);
}

export async function mkdir(): Promise<void> {
  mkdirSync();
}

export async function rename(from: string, to: string): Promise<void> {
  renameSync(from, to);
}

export async function rm(path: string): Promise<void> {
  rmSync(path);
}

/** A file to be written once. */
export async function open(path: string): Promise<{
  writeFile(content: string | Uint8Array): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
}> {
  return {
    writeFile: async (content) => {
      machine().files.write(path, content);
    },
    sync: async () => undefined,
    close: async () => undefined,
  };
}

export function appendFileSync(path: string, content: string | Uint8Array): void {
  const { files } = machine();
  files.write(path, Buffer.concat([files.has(path) ? files.read(path) : Buffer.alloc(0), Buffer.from(content)]));
}
