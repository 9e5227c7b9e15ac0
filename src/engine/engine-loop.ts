// Steps an engine while it has work and lets the event loop breathe in between.
import { setImmediate } from 'node:timers/promises';
import type { Clock } from './clock.ts';
import type { LLMEngine } from './llm-engine.ts';
import type { EngineOutput } from './protocol.ts';

/** The next step waits for it. */
export type StepListener = (outputs: readonly EngineOutput[]) => void | Promise<void>;

export class EngineLoop {
  readonly #engine: LLMEngine;
  readonly #clock: Clock;
  readonly #onStep: StepListener;
  #running: Promise<void> | null = null;
  #isStopped = false;
  #stepStartMs: number | null = null;

  constructor(engine: LLMEngine, clock: Clock, onStep: StepListener) {
    this.#engine = engine;
    this.#clock = clock;
    this.#onStep = onStep;
  }

  /** How long the step in progress has been running, in milliseconds; 0 between steps. */
  get stepMs(): number {
    return this.#stepStartMs === null ? 0 : this.#clock.now() - this.#stepStartMs;
  }

  /** Call it after `add` or `abort`: steps follow until the engine has no work left. */
  wake(): void {
    if (!this.#isStopped) this.#running ??= this.#run();
  }

  /** Resolves when the step in progress has ended; no other will begin. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    // Requests that arrive in the same turn of the event loop share the first step.
    await setImmediate();
    while (this.#engine.hasWork && !this.#isStopped) {
      this.#stepStartMs = this.#clock.now();
      const outputs = await this.#engine.step();
      this.#stepStartMs = null;
      await this.#onStep(outputs);
      await setImmediate();
    }
    this.#running = null;
  }
}
