// The engine's side of the pipe: loads the model, steps while there is work, and ends when its parent does.
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { isNeedletailError, NeedletailError } from '../../util/errors.ts';
import { systemClock } from '../clock.ts';
import type { EngineConfig } from '../config.ts';
import { EngineLoop } from '../engine-loop.ts';
import type { LLMEngine } from '../llm-engine.ts';
import type { EngineOutput, EngineStats } from '../protocol.ts';
import { type Frame, FrameDecoder, FrameWriter } from './frames.ts';
import { HeldOutputs } from './held-outputs.ts';
import {
  type LoadMessage,
  MESSAGE,
  readAbort,
  readLoad,
  readRequest,
  writeLoadFailed,
  writeProgress,
  writeReady,
  writeRefused,
} from './messages.ts';
import { writeStep } from './step-message.ts';

/** What a process needs to know to become an engine. */
export type LoadEngine = (
  config: EngineConfig,
  hooks: { onProgress: (done: number, total: number, stage: string) => void },
) => Promise<LLMEngine>;

/** Resolves when the parent asked for the end, or is gone, or the engine failed, and everything is freed. */
export async function serveEngine(pipe: Socket, load: LoadEngine): Promise<void> {
  await new EngineServer(pipe, load).ended;
}

class EngineServer {
  readonly ended: Promise<void>;
  readonly #pipe: Socket;
  readonly #load: LoadEngine;
  readonly #decoder = new FrameDecoder();
  readonly #writer = new FrameWriter();
  #engine: LLMEngine | null = null;
  #loop: EngineLoop | null = null;
  /** After the steps that no message has told of yet. */
  #stats: EngineStats[] = [];
  #resolveEnded!: () => void;
  /** Aborted when the end begins. */
  readonly #ending = new AbortController();

  constructor(pipe: Socket, load: LoadEngine) {
    this.#pipe = pipe;
    this.#load = load;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
    pipe.on('data', (chunk: Buffer) => this.#receive(chunk));
    // A parent that died closes the pipe, or resets it while something is being written.
    pipe.on('close', () => void this.#end());
    pipe.on('error', () => void this.#end());
  }

  #receive(chunk: Buffer): void {
    for (const frame of this.#decoder.push(chunk)) this.#handle(frame);
  }

  #handle({ type, payload }: Frame): void {
    if (type === MESSAGE.load) void this.#start(readLoad(payload));
    else if (type === MESSAGE.request) this.#add(payload);
    else if (type === MESSAGE.abort) this.#abort(payload);
    else if (type === MESSAGE.close) void this.#end();
    else throw new Error(`the engine's process got a frame of unknown type ${type}`);
  }

  async #start({ config, streamIntervalMs }: LoadMessage): Promise<void> {
    try {
      const engine = await this.#load(config, {
        onProgress: (done, total, stage) =>
          this.#pipe.write(writeProgress(this.#writer, { stage, done, total })),
      });
      this.#engine = engine;
      const held = new HeldOutputs(streamIntervalMs);
      this.#loop = new EngineLoop(engine, systemClock, (outputs) => this.#publish(engine, held, outputs));
      this.#pipe.write(writeReady(this.#writer, engine.info));
    } catch (error) {
      this.#pipe.write(writeLoadFailed(this.#writer, asNeedletailError(error)));
      await this.#end();
    }
  }

  #add(payload: Buffer): void {
    const { handle, request } = readRequest(payload);
    try {
      this.#engine!.add({ ...request, requestId: String(handle) });
      this.#loop!.wake();
    } catch (error) {
      this.#pipe.write(writeRefused(this.#writer, handle, asNeedletailError(error)));
    }
  }

  #abort(payload: Buffer): void {
    const { handle, index } = readAbort(payload);
    this.#engine!.abort(String(handle), index);
    this.#loop!.wake();
  }

  /** The next step waits while the parent does not read, so that nothing piles up. */
  async #publish(engine: LLMEngine, held: HeldOutputs, outputs: readonly EngineOutput[]): Promise<void> {
    const { signal } = this.#ending;
    if (signal.aborted) return;
    const stats = engine.stats();
    this.#stats.push(stats);
    const released = held.release(outputs, stats.numRunning, systemClock.now());
    if (released !== null) await this.#send(released);
    if (!engine.failure) return;
    // A process whose device failed is of no use; the parent starts another.
    process.exitCode = 1;
    void this.#end();
  }

  async #send(outputs: readonly EngineOutput[]): Promise<void> {
    const message = writeStep(this.#writer, { stats: this.#stats, outputs });
    this.#stats = [];
    const { signal } = this.#ending;
    if (!this.#pipe.write(message)) await once(this.#pipe, 'drain', { signal }).catch(() => {});
  }

  async #end(): Promise<void> {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    await this.#loop?.stop();
    await this.#engine?.close();
    await new Promise<void>((resolve) => this.#pipe.end(resolve));
    this.#resolveEnded();
  }
}

function asNeedletailError(error: unknown): NeedletailError {
  if (isNeedletailError(error)) return error;
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new NeedletailError('device_failed', `the engine failed to start: ${text}`, { cause: error });
}
