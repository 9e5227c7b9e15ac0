// The outputs of one request on their way to its reader. A reader that lags gets them merged, never an endless queue.
import { PendingOutputs } from './pending-outputs.ts';
import type { EngineOutput } from './protocol.ts';

/** One reader at a time. Holds at most one pending output per choice. */
export class OutputStream {
  readonly #pending = new PendingOutputs();
  #numOpen: number;
  #error: Error | null = null;
  #wake: (() => void) | null = null;

  /** `n`: choices that will each end with an output that has a finish reason. */
  constructor(n: number) {
    this.#numOpen = n;
  }

  /** Whether every choice has ended, or the request has failed. */
  get isClosed(): boolean {
    return this.#numOpen === 0 || this.#error !== null;
  }

  /** The output is the stream's from here on. */
  push(output: EngineOutput): void {
    this.#pending.push(output);
    if (output.finishReason !== null) this.#numOpen--;
    this.#wake?.();
  }

  /** The reader gets this error once it has read what is pending. */
  fail(error: Error): void {
    this.#error ??= error;
    this.#wake?.();
  }

  /** Yields until every choice has ended. */
  async *read(): AsyncGenerator<EngineOutput, void, undefined> {
    for (;;) {
      yield* this.#pending.take();
      if (this.#pending.size > 0) continue;
      if (this.#numOpen === 0) return;
      if (this.#error !== null) throw this.#error;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

/** Reads a stream to its end. `abort` is called when `signal` fires or the reader leaves early. */
export async function* readUntilAborted(
  stream: OutputStream,
  abort: () => void,
  signal: AbortSignal | undefined,
): AsyncGenerator<EngineOutput, void, undefined> {
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted) abort();
  try {
    yield* stream.read();
  } finally {
    signal?.removeEventListener('abort', abort);
    if (!stream.isClosed) abort();
  }
}
