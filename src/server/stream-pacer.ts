// How often streams are written to: at once while they are few, less often when their writes would slow the engine down.

/** Time between two writes to a stream, for each stream that is open: bounds what writing costs to a few per cent. */
const INTERVAL_PER_STREAM_MS = 0.6;
/** Waits shorter than a timer can keep are none. */
const MIN_INTERVAL_MS = 1;

/**
 * Streams that wait are woken together; meanwhile the engine's outputs are merged, so that a stream gets several tokens
 * in one event. `maxIntervalMs` bounds the wait; 0: every token is sent as it comes.
 */
export class StreamPacer {
  readonly #maxIntervalMs: number;
  #numStreams = 0;
  #nextTick: Promise<void> | null = null;

  constructor(maxIntervalMs: number) {
    this.#maxIntervalMs = maxIntervalMs;
  }

  /** Counts a stream until what is returned is called. */
  open(): () => void {
    this.#numStreams++;
    return () => void this.#numStreams--;
  }

  /** What a stream that has just been written to waits for before the next time; null: nothing. */
  next(): Promise<void> | null {
    const intervalMs = Math.min(this.#maxIntervalMs, this.#numStreams * INTERVAL_PER_STREAM_MS);
    if (intervalMs < MIN_INTERVAL_MS) return null;
    return (this.#nextTick ??= this.#tickAfter(intervalMs));
  }

  #tickAfter(intervalMs: number): Promise<void> {
    return new Promise((resolve) => {
      setTimeout(() => {
        this.#nextTick = null;
        resolve();
      }, intervalMs);
    });
  }
}
