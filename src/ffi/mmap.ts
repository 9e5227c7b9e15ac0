// Files mapped into memory, read-only: pages come from the disk when they are first touched.
import koffi from 'koffi';
import { nativeView } from './native-memory.ts';

const PROT_READ = 1;
const MAP_PRIVATE = 2;

const libc = koffi.load(null);
const mmap: (
  address: number,
  length: number,
  protection: number,
  flags: number,
  fd: number,
  offset: number,
) => number | bigint = libc.func('mmap', 'uintptr_t', [
  'uintptr_t',
  'size_t',
  'int',
  'int',
  'int',
  'int64_t',
]);
const munmap: (address: bigint, length: number) => number = libc.func('munmap', 'int', [
  'uintptr_t',
  'size_t',
]);

/** A mapping of the first `byteLength` bytes of a file. */
export class FileMapping {
  readonly byteLength: number;
  #address: bigint | null;

  /**
   * @param fd may be closed once the mapping exists
   * @throws Error if the system cannot map the file
   */
  constructor(fd: number, byteLength: number) {
    this.byteLength = byteLength;
    const address = BigInt(mmap(0, byteLength, PROT_READ, MAP_PRIVATE, fd, 0));
    if (BigInt.asIntN(64, address) === -1n) throw new Error(`mmap failed with error ${koffi.errno()}`);
    this.#address = address;
  }

  /** The bytes [offset, offset + length); they must not be touched after `close`. */
  view(offset: number, length: number): Uint8Array {
    if (this.#address === null) throw new Error('the mapping is closed');
    if (offset < 0 || length < 0 || offset + length > this.byteLength)
      throw new RangeError(`no view of ${length} bytes at ${offset} in a mapping of ${this.byteLength}`);
    return new Uint8Array(nativeView(this.#address + BigInt(offset), length));
  }

  close(): void {
    if (this.#address !== null) munmap(this.#address, this.byteLength);
    this.#address = null;
  }
}
