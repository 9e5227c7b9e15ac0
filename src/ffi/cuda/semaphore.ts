// A POSIX semaphore: the driver posts it when a step is done, a thread of libuv waits for it beside the event loop.
import koffi from 'koffi';
import type { Address } from '../native-memory.ts';

/** More than a `sem_t` takes on any Linux. */
export const SEMAPHORE_BYTES = 64;

const libc = koffi.load(null);
const semInit = libc.func('int sem_init(uintptr_t semaphore, int shared, unsigned int value)') as (
  semaphore: Address,
  shared: number,
  value: number,
) => number;
const semTimedWait = libc.func('int sem_timedwait(uintptr_t semaphore, const void *deadline)');
const post = libc.symbol('sem_post') as unknown;

/** Lives in `SEMAPHORE_BYTES` of memory that the caller owns. */
export class Semaphore {
  readonly address: Address;

  constructor(address: Address) {
    this.address = address;
    semInit(address, 0, 0);
  }

  /** Address of the C function that posts a semaphore, given its address. */
  static get postFunction(): Address {
    return Number(koffi.address(post));
  }

  /** Resolves to true once it was posted, to false after `seconds` without. */
  wait(seconds: number): Promise<boolean> {
    const deadline = BigInt64Array.of(BigInt(Math.floor(Date.now() / 1000) + seconds), 0n);
    return new Promise((resolve, reject) => {
      semTimedWait.async(this.address, deadline, (error: Error | null, status: number) => {
        if (error) reject(error);
        else resolve(status === 0);
      });
    });
  }
}
