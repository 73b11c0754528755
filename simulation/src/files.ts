/**
 * Files of the parties that are no databases: trust bundle, mailings, archive folders. In memory, and always whole.
 *
 * Does not model what a crash leaves of a file being written: nothing here is a party's only copy of anything.
 */

export class Files {
  readonly #files = new Map<string, Buffer>();

  write(path: string, content: string | Uint8Array): void {
    this.#files.set(path, Buffer.from(content));
  }

  /** @throws an error with code ENOENT. */
  read(path: string): Buffer {
    const content = this.#files.get(path);
    if (content === undefined) {
      throw Object.assign(new Error(`ENOENT: no such file, open '${path}'`), { code: 'ENOENT', path });
    }
    return content;
  }

  /** Whether there is such a file, or a folder with files. */
  has(path: string): boolean {
    return this.#files.has(path) || [...this.#files.keys()].some((name) => name.startsWith(`${path}/`));
  }

  /** Renames a file, or a folder with all that is in it. */
  rename(from: string, to: string): void {
    for (const [name, content] of [...this.#files]) {
      if (name !== from && !name.startsWith(`${from}/`)) continue;
      this.#files.delete(name);
      this.#files.set(to + name.slice(from.length), content);
    }
  }

  remove(path: string): void {
    for (const name of [...this.#files.keys()])
      if (name === path || name.startsWith(`${path}/`)) this.#files.delete(name);
  }

  /** Names directly in a folder. */
  list(folder: string): string[] {
    const prefix = `${folder.replace(/\/$/, '')}/`;
    return [...this.#files.keys()]
      .filter((name) => name.startsWith(prefix) && !name.slice(prefix.length).includes('/'))
      .map((name) => name.slice(prefix.length))
      .sort();
  }
}
