// Locks between processes on a file: the system releases them when their holder ends, however it ends.
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';

const LOCK_EX = 2;
const LOCK_NB = 4;

const flock: (fd: number, operation: number) => number = koffi
  .load(null)
  .func('flock', 'int', ['int', 'int']);

/**
 * Takes the exclusive lock on `path`, a file made if needed, or returns null at once if another holds it.
 * `huggingface_hub` locks its downloads in the same way (flock), so the two respect each other.
 * @returns a function that releases the lock; the file stays, since removing it would let two hold "the" lock
 */
export function tryLockFile(path: string): (() => void) | null {
  const fd = openSync(path, 'a');
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return () => closeSync(fd);
  const error = koffi.errno();
  closeSync(fd);
  if (error === koffi.os.errno['EAGAIN'] || error === koffi.os.errno['EWOULDBLOCK']) return null;
  throw new Error(`${path}: flock failed with error ${error}`);
}
