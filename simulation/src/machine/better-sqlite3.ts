/**
 * Stands in for better-sqlite3 under the parties: SQLite itself, on the world's disks.
 */
import Real from 'better-sqlite3';
import type { SimulatedDatabase } from '../disks.ts';
import { machine, runningProcess } from './machine.ts';

/** `new Database(path)` as the parties call it: the file of the process that runs now. */
function Database(path: string): SimulatedDatabase {
  return machine().disks.open(path, runningProcess());
}

Database.SqliteError = Real.SqliteError;

export default Database;
