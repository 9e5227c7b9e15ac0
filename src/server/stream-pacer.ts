// How often streams are written to: at once while they are few, less often when their writes would slow the engine down.

/** Time between two writes to a stream, for each stream that is open: bounds what writing costs to a few per cent. */
const INTERVAL_PER_STREAM_MS = 0.6;
/** Waits shorter than a step of a small model are none. */
const MIN_INTERVAL_MS = 1;
/** Multiples of it, modulo 1, are spread evenly however many there are. */
const GOLDEN_RATIO = 0.6180339887;

/** When one stream may be written to. */
export interface StreamPace {
  /** What a stream that has just been written to waits for before the next time; null: nothing. */
  next(): Promise<void> | null;
  close(): void;
}

interface Waiting {
  readonly dueMs: number;
  readonly isComplete: () => boolean;
  readonly wake: () => void;
}

/**
 * While a stream waits, the engine's outputs are merged, so that it gets several tokens in one event. Streams take turns:
 * after each step some are written to, while the engine prepares its next step, and not all of them in the middle of one.
 * `maxIntervalMs` bounds the wait; 0: every token is sent as it comes.
 */
export class StreamPacer {
  readonly #maxIntervalMs: number;
  #numStreams = 0;
  #numOpened = 0;
  #waiting: Waiting[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(maxIntervalMs: number) {
    this.#maxIntervalMs = maxIntervalMs;
  }

  /** @param isComplete whether the stream's last outputs are there, which are not waited for */
  open(isComplete: () => boolean): StreamPace {
    this.#numStreams++;
    const phase = (this.#numOpened++ * GOLDEN_RATIO) % 1;
    return { next: () => this.#next(phase, isComplete), close: () => void this.#numStreams-- };
  }

  /** Call it when a step's outputs have been handed out. */
  onStep(): void {
    if (this.#waiting.length === 0) return;
    this.#timer?.refresh();
    this.#wakeUntil(performance.now());
  }

  #next(phase: number, isComplete: () => boolean): Promise<void> | null {
    const intervalMs = Math.min(this.#maxIntervalMs, this.#numStreams * INTERVAL_PER_STREAM_MS);
    if (intervalMs < MIN_INTERVAL_MS) return null;
    // Where no step ends in time, the last one's outputs do not wait for it.
    this.#timer ??= setTimeout(() => this.#onSilence(), this.#maxIntervalMs);
    const turn = Math.floor(performance.now() / intervalMs - phase) + 1;
    const dueMs = (turn + phase) * intervalMs;
    return new Promise((wake) => this.#waiting.push({ dueMs, isComplete, wake }));
  }

  #onSilence(): void {
    this.#timer = null;
    this.#wakeUntil(Infinity);
  }

  #wakeUntil(nowMs: number): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const stream of waiting) {
      if (stream.dueMs <= nowMs || stream.isComplete()) stream.wake();
      else this.#waiting.push(stream);
    }
  }
}
