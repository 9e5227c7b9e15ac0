// Device events around the kernels of each step, for measurements: how long the GPU worked, and how long it waited.
import type { CudaDriver } from '../../ffi/cuda/driver.ts';
import type { Address } from '../../ffi/native-memory.ts';

interface StepEvents {
  readonly start: Address;
  readonly end: Address;
}

export interface StepTimes {
  /** From the first kernel of the first step to the last kernel of the last. */
  readonly wallMs: number;
  /** Of each step. */
  readonly stepMs: readonly number[];
  /** From each step's last kernel to the next step's first. */
  readonly gapMs: readonly number[];
}

export class StepTimer {
  readonly #driver: CudaDriver;
  readonly #stream: Address;
  readonly #steps: StepEvents[] = [];

  constructor(driver: CudaDriver, stream: Address) {
    this.#driver = driver;
    this.#stream = stream;
  }

  begin(): void {
    const step = { start: this.#driver.createEvent(), end: this.#driver.createEvent() };
    this.#steps.push(step);
    this.#driver.recordEvent(step.start, this.#stream);
  }

  end(): void {
    this.#driver.recordEvent(this.#steps.at(-1)!.end, this.#stream);
  }

  /** Of all steps since the last call, which must have ended. */
  take(): StepTimes {
    const steps = this.#steps.splice(0);
    const between = (start: Address, end: Address): number => this.#driver.elapsedMs(start, end);
    const times = {
      wallMs: steps.length === 0 ? 0 : between(steps[0].start, steps.at(-1)!.end),
      stepMs: steps.map(({ start, end }) => between(start, end)),
      gapMs: steps.slice(1).map(({ start }, i) => between(steps[i].end, start)),
    };
    for (const { start, end } of steps) for (const event of [start, end]) this.#driver.destroyEvent(event);
    return times;
  }
}
