// Tells the host that the GPU has got to a place in its work, without holding the GPU up: a second stream waits there and
// posts a semaphore.
import type { Address } from '../../ffi/native-memory.ts';
import { Semaphore, SEMAPHORE_BYTES } from '../../ffi/cuda/semaphore.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import type { DeviceMemoryPool } from './device-memory.ts';

/** How often a wait is interrupted for a look: the driver posts nothing once the GPU has failed. */
const WATCH_SECONDS = 2;

export class StreamSignal {
  readonly #runtime: CudaRuntime;
  readonly #event: Address;
  readonly #semaphore: Semaphore;

  /** Its memory is the pool's. */
  constructor(runtime: CudaRuntime, pool: DeviceMemoryPool) {
    this.#runtime = runtime;
    this.#event = runtime.driver.createEvent();
    this.#semaphore = new Semaphore(pool.allocatePinned(SEMAPHORE_BYTES).address);
  }

  /** Marks the place where the stream is now. */
  set(): void {
    const { driver, stream, signalStream } = this.#runtime;
    driver.recordEvent(this.#event, stream);
    driver.waitForEvent(signalStream, this.#event);
    driver.launchHostFunction(signalStream, Semaphore.postFunction, this.#semaphore.address);
  }

  /** Waits, beside the event loop, until the GPU is there. Throws `device_failed` if it failed. Once for each `set`. */
  async reached(): Promise<void> {
    while (!(await this.#semaphore.wait(WATCH_SECONDS))) {
      this.#runtime.makeCurrent();
      this.#runtime.driver.isStreamDone(this.#runtime.stream);
    }
    this.#runtime.makeCurrent();
  }

  release(): void {
    this.#runtime.driver.destroyEvent(this.#event);
  }
}
