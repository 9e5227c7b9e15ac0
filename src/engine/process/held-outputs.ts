// Outputs that wait in the engine's process until it pays to wake the parent: a message for each step would slow the steps down.
import { PendingOutputs } from '../pending-outputs.ts';
import type { EngineOutput } from '../protocol.ts';

/** Time between two messages for each sequence that runs: bounds what their handling costs to a few per cent. */
const INTERVAL_PER_SEQUENCE_MS = 1;
/** Waits that are no longer gain nothing. */
const MIN_INTERVAL_MS = 1;

/**
 * A request's first outputs and those that end a choice leave at once, with whatever is held of that request; all others
 * wait for one another, at most `maxIntervalMs`, and are merged meanwhile.
 */
export class HeldOutputs {
  readonly #maxIntervalMs: number;
  readonly #held = new Map<string, PendingOutputs>();
  /** Requests whose next output is not their first. */
  readonly #begun = new Set<string>();
  #lastReleaseMs = -Infinity;

  constructor(maxIntervalMs: number) {
    this.#maxIntervalMs = maxIntervalMs;
  }

  /**
   * What leaves after a step; null: no message is due. One without outputs is a sign of life.
   * @param numRunning sequences that run
   * @param nowMs of any clock that never goes back
   */
  release(outputs: readonly EngineOutput[], numRunning: number, nowMs: number): EngineOutput[] | null {
    const urgent = new Set<string>();
    for (const output of outputs) if (this.#hold(output)) urgent.add(output.requestId);
    const intervalMs = Math.min(this.#maxIntervalMs, numRunning * INTERVAL_PER_SEQUENCE_MS);
    const isDue = intervalMs <= MIN_INTERVAL_MS || nowMs - this.#lastReleaseMs >= intervalMs;
    if (isDue) this.#lastReleaseMs = nowMs;
    if (isDue) return this.#take(this.#held.keys());
    return urgent.size > 0 ? this.#take(urgent) : null;
  }

  /** Whether it must not wait. */
  #hold(output: EngineOutput): boolean {
    const { requestId, finishReason } = output;
    let pending = this.#held.get(requestId);
    if (!pending) this.#held.set(requestId, (pending = new PendingOutputs()));
    pending.push(output);
    const isFirst = !this.#begun.has(requestId);
    if (finishReason === null) this.#begun.add(requestId);
    else this.#begun.delete(requestId); // of several choices the others begin anew, which costs a message
    return isFirst || finishReason !== null;
  }

  #take(requestIds: Iterable<string>): EngineOutput[] {
    const taken: EngineOutput[] = [];
    for (const requestId of requestIds) {
      for (const output of this.#held.get(requestId)!.take()) taken.push(output);
      this.#held.delete(requestId);
    }
    return taken;
  }
}
