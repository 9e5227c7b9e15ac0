// How often streams are written to: at once while they are few, less often when their writes would slow the engine down.

/** Time between two writes to a stream, for each stream that is open: bounds what writing costs to a few per cent. */
const INTERVAL_PER_STREAM_MS = 0.6;
/** Waits shorter than a timer can keep are none. */
const MIN_INTERVAL_MS = 1;

/** When one stream may be written to. */
export interface StreamPace {
  /** What a stream that has just been written to waits for before the next time; null: nothing. */
  next(): Promise<void> | null;
  close(): void;
}

interface Waiting {
  readonly isComplete: () => boolean;
  readonly wake: () => void;
}

/**
 * Streams that wait are woken together, which disturbs the engine less than one after the other; meanwhile its outputs
 * are merged, so that a stream gets several tokens in one event. `maxIntervalMs` bounds the wait; 0: every token is sent
 * as it comes.
 */
export class StreamPacer {
  readonly #maxIntervalMs: number;
  #numStreams = 0;
  #waiting: Waiting[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(maxIntervalMs: number) {
    this.#maxIntervalMs = maxIntervalMs;
  }

  /** @param isComplete whether the stream's last outputs are there, which do not wait */
  open(isComplete: () => boolean): StreamPace {
    this.#numStreams++;
    return { next: () => this.#next(isComplete), close: () => void this.#numStreams-- };
  }

  /** Call it when a step's outputs have been handed out. */
  onStep(): void {
    const waiting = this.#waiting;
    this.#waiting = waiting.filter(({ isComplete }) => !isComplete());
    for (const { isComplete, wake } of waiting) if (isComplete()) wake();
  }

  #next(isComplete: () => boolean): Promise<void> | null {
    const intervalMs = Math.min(this.#maxIntervalMs, this.#numStreams * INTERVAL_PER_STREAM_MS);
    if (intervalMs < MIN_INTERVAL_MS) return null;
    this.#timer ??= setTimeout(() => this.#wakeAll(), intervalMs);
    return new Promise((wake) => this.#waiting.push({ isComplete, wake }));
  }

  #wakeAll(): void {
    const waiting = this.#waiting;
    this.#timer = null;
    this.#waiting = [];
    for (const { wake } of waiting) wake();
  }
}
