// An LLMEngine in this process behind the interface that its users know.
import { NeedletailError } from '../util/errors.ts';
import { systemClock, type Clock } from './clock.ts';
import { EngineLoop } from './engine-loop.ts';
import { duplicateRequest } from './check-request.ts';
import type { LLMEngine } from './llm-engine.ts';
import { OutputStream, readUntilAborted } from './output-stream.ts';
import type { EngineClient, EngineInfo, EngineOutput, EngineRequest, EngineStats } from './protocol.ts';

/** A step that takes longer means that the engine hangs. */
export const DEFAULT_WATCHDOG_MS = 60_000;

export class InProcessEngine implements EngineClient {
  readonly info: EngineInfo;
  readonly #engine: LLMEngine;
  readonly #loop: EngineLoop;
  readonly #watchdogMs: number;
  readonly #streams = new Map<string, OutputStream>();
  readonly #listeners = new Set<(stats: EngineStats) => void>();
  #isClosed = false;

  constructor(engine: LLMEngine, options: { clock?: Clock; watchdogMs?: number } = {}) {
    const { clock = systemClock, watchdogMs = DEFAULT_WATCHDOG_MS } = options;
    this.info = engine.info;
    this.#engine = engine;
    this.#watchdogMs = watchdogMs;
    this.#loop = new EngineLoop(engine, clock, (outputs) => this.#dispatch(outputs));
  }

  /**
   * The request is added when reading begins. A reader that stops early aborts it; `signal` ends its choices with
   * `abort`.
   */
  async *generate(
    request: EngineRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<EngineOutput, void, undefined> {
    const { requestId } = request;
    if (this.#isClosed) throw new NeedletailError('shutting_down', 'the engine is closed');
    if (this.#streams.has(requestId)) throw duplicateRequest(requestId);
    this.#engine.add(request);
    const stream = new OutputStream(request.sampling.n);
    this.#streams.set(requestId, stream);
    this.#loop.wake();
    yield* readUntilAborted(stream, () => this.abort(requestId), signal);
  }

  abort(requestId: string, index?: number): void {
    if (this.#isClosed) return;
    this.#engine.abort(requestId, index);
    this.#loop.wake();
  }

  stats(): EngineStats {
    return this.#engine.stats();
  }

  async isHealthy(): Promise<boolean> {
    return !this.#isClosed && this.#engine.failure === null && this.#loop.stepMs <= this.#watchdogMs;
  }

  onStats(listener: (stats: EngineStats) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Requests in flight throw `shutting_down`. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const error = new NeedletailError('shutting_down', 'the engine was closed');
    for (const stream of this.#streams.values()) stream.fail(error);
    await this.#loop.stop();
    await this.#engine.close();
  }

  #dispatch(outputs: readonly EngineOutput[]): void {
    for (const output of outputs) {
      const stream = this.#streams.get(output.requestId)!;
      stream.push(output);
      if (stream.isClosed) this.#streams.delete(output.requestId);
    }
    const stats = this.#engine.stats();
    for (const listener of this.#listeners) listener(stats);
  }
}
