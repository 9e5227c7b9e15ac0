// The engine in a process of its own: what dies there costs the requests in flight, and a new one takes its place.
import { setTimeout as delay } from 'node:timers/promises';
import { NeedletailError } from '../../util/errors.ts';
import { checkRequest, duplicateRequest } from '../check-request.ts';
import { systemClock, type Clock } from '../clock.ts';
import type { EngineConfig } from '../config.ts';
import { DEFAULT_WATCHDOG_MS } from '../engine-client.ts';
import { OutputStream, readUntilAborted } from '../output-stream.ts';
import type { EngineClient, EngineInfo, EngineOutput, EngineRequest, EngineStats } from '../protocol.ts';
import { EngineChild } from './engine-child.ts';
import { type Frame, FrameWriter } from './frames.ts';
import {
  type LoadProgress,
  MESSAGE,
  readLoadFailed,
  readProgress,
  readReady,
  readRefused,
  writeAbort,
  writeClose,
  writeLoad,
  writeRequest,
} from './messages.ts';
import { NO_STATS, readStep } from './step-message.ts';

export interface EngineProcessOptions {
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Told why the process died, and each time that another one could not be started. */
  readonly onDeath?: (reason: string) => void;
  /** A step that takes longer means that the engine hangs. */
  readonly watchdogMs?: number;
  /**
   * Longest time that tokens wait to leave the process together while many sequences run, but for a request's first and
   * last; 0: they leave with each step.
   */
  readonly streamIntervalMs?: number;
  readonly clock?: Clock;
  /** Waits before each try to start a process anew; after the last one the engine stays dead. */
  readonly restartDelaysMs?: readonly number[];
  /** What the child runs. */
  readonly entry?: URL;
}

const DEFAULT_STREAM_INTERVAL_MS = 40;
const RESTART_DELAYS_MS = [0, 500, 2000, 8000];
/** What a process gets to end by itself once it was told to. */
const MAX_CLOSE_MS = 5000;

/** Resolves when the model is loaded. Rejects with what kept the engine from starting. */
export async function startEngineProcess(
  config: EngineConfig,
  options: EngineProcessOptions = {},
): Promise<EngineProcess> {
  const engine = new EngineProcess(config, options);
  await engine.start();
  return engine;
}

interface InFlight {
  readonly handle: number;
  readonly stream: OutputStream;
}

export class EngineProcess implements EngineClient {
  readonly #config: EngineConfig;
  readonly #options: EngineProcessOptions;
  readonly #clock: Clock;
  readonly #writer = new FrameWriter();
  readonly #requests = new Map<string, InFlight>();
  /** By handle; the numbers go on when a process is replaced. */
  readonly #requestIds = new Map<number, string>();
  readonly #listeners = new Set<(stats: EngineStats) => void>();
  readonly #closing = new AbortController();
  #child: EngineChild | null = null;
  #isReady = false;
  #info: EngineInfo | null = null;
  #stats: EngineStats = NO_STATS;
  #numHandles = 0;
  /** When the process last said something, or was first asked for something. */
  #lastSignOfLifeMs = 0;
  #unavailable = 'the engine is starting';

  constructor(config: EngineConfig, options: EngineProcessOptions) {
    this.#config = config;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  get info(): EngineInfo {
    return this.#info!;
  }

  /** Of the present process, while there is one. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Loads the model in a new process. Called by `startEngineProcess`. */
  async start(): Promise<void> {
    const entry = this.#options.entry ?? defaultEntry();
    await new Promise<void>((resolve, reject) => {
      const child = new EngineChild(entry, (frame) => {
        if (frame.type === MESSAGE.ready) resolve();
        if (frame.type === MESSAGE.loadFailed) reject(readLoadFailed(frame.payload));
        this.#handle(frame);
      });
      this.#child = child;
      void child.exited.then((reason) => {
        reject(new NeedletailError('engine_died', `the engine's process died while it started (${reason})`));
        this.#onExit(reason);
      });
      const { streamIntervalMs = DEFAULT_STREAM_INTERVAL_MS } = this.#options;
      child.send(writeLoad(this.#writer, { config: this.#config, streamIntervalMs }));
    });
  }

  /**
   * The request is sent when reading begins. A reader that stops early aborts it; `signal` ends its choices with
   * `abort`. Throws `engine_died` at once while there is no process to serve it.
   */
  async *generate(
    request: EngineRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<EngineOutput, void, undefined> {
    const { requestId } = request;
    this.#checkAvailable();
    if (this.#requests.has(requestId)) throw duplicateRequest(requestId);
    checkRequest(request, this.info);
    const stream = new OutputStream(request.sampling.n);
    this.#send(request, stream);
    yield* readUntilAborted(stream, () => this.abort(requestId), signal);
  }

  abort(requestId: string, index?: number): void {
    const inFlight = this.#requests.get(requestId);
    if (inFlight) this.#child?.send(writeAbort(this.#writer, inFlight.handle, index));
  }

  stats(): EngineStats {
    return this.#stats;
  }

  async isHealthy(): Promise<boolean> {
    const silentMs = this.#requests.size === 0 ? 0 : this.#clock.now() - this.#lastSignOfLifeMs;
    return this.#isReady && silentMs <= (this.#options.watchdogMs ?? DEFAULT_WATCHDOG_MS);
  }

  onStats(listener: (stats: EngineStats) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Requests in flight throw `shutting_down`. Resolves when the process is gone. */
  async close(): Promise<void> {
    const child = this.#child;
    const isLoading = !this.#isReady;
    this.#closing.abort();
    this.#isReady = false;
    this.#failAll(new NeedletailError('shutting_down', 'the engine was closed'));
    if (!child) return;
    if (isLoading) child.kill();
    child.send(writeClose(this.#writer));
    const patience = new AbortController();
    void delay(MAX_CLOSE_MS, null, { signal: patience.signal }).then(
      () => child.kill(),
      () => {},
    );
    await child.exited;
    patience.abort();
  }

  #checkAvailable(): void {
    if (this.#closing.signal.aborted) throw new NeedletailError('shutting_down', 'the engine is closed');
    if (!this.#isReady) throw new NeedletailError('engine_died', this.#unavailable);
  }

  #send(request: EngineRequest, stream: OutputStream): void {
    const handle = this.#numHandles++ % 2 ** 32;
    if (this.#requests.size === 0) this.#lastSignOfLifeMs = this.#clock.now();
    this.#requests.set(request.requestId, { handle, stream });
    this.#requestIds.set(handle, request.requestId);
    this.#child!.send(writeRequest(this.#writer, handle, request));
  }

  #handle({ type, payload }: Frame): void {
    this.#lastSignOfLifeMs = this.#clock.now();
    if (type === MESSAGE.step) this.#onStep(payload);
    else if (type === MESSAGE.refused) this.#onRefused(payload);
    else if (type === MESSAGE.progress) this.#options.onProgress?.(readProgress(payload));
    else if (type === MESSAGE.ready) this.#onReady(payload);
  }

  #onReady(payload: Buffer): void {
    this.#info = readReady(payload);
    this.#isReady = true;
  }

  #onStep(payload: Buffer): void {
    const { stats, outputs } = readStep(payload, this.#requestIds);
    for (const output of outputs) {
      const stream = this.#requests.get(output.requestId)?.stream;
      if (!stream) continue;
      stream.push(output);
      if (stream.isClosed) this.#forget(output.requestId);
    }
    for (const step of stats) this.#publishStats(step);
  }

  #publishStats(stats: EngineStats): void {
    this.#stats = stats;
    for (const listener of this.#listeners) listener(stats);
  }

  #onRefused(payload: Buffer): void {
    const { handle, error } = readRefused(payload);
    const requestId = this.#requestIds.get(handle);
    if (requestId === undefined) return;
    this.#requests.get(requestId)!.stream.fail(error);
    this.#forget(requestId);
  }

  #forget(requestId: string): void {
    this.#requestIds.delete(this.#requests.get(requestId)!.handle);
    this.#requests.delete(requestId);
  }

  #failAll(error: NeedletailError): void {
    for (const { stream } of this.#requests.values()) stream.fail(error);
    this.#requests.clear();
    this.#requestIds.clear();
  }

  /** Only a process that had become an engine is replaced: the first failure to start is the caller's to see. */
  #onExit(reason: string): void {
    this.#child = null;
    if (!this.#isReady) return;
    this.#isReady = false;
    this.#options.onDeath?.(reason);
    this.#unavailable = `the engine's process died (${reason}) and is being restarted; try again in a moment`;
    this.#failAll(new NeedletailError('engine_died', `the engine's process died (${reason})`));
    this.#publishStats(NO_STATS);
    void this.#restart();
  }

  async #restart(): Promise<void> {
    const { signal } = this.#closing;
    for (const delayMs of this.#options.restartDelaysMs ?? RESTART_DELAYS_MS) {
      try {
        await delay(delayMs, null, { signal });
        return await this.start();
      } catch (error) {
        if (signal.aborted) return;
        this.#unavailable = `the engine could not be restarted: ${(error as Error).message}`;
        this.#options.onDeath?.(this.#unavailable);
      }
    }
  }
}

function defaultEntry(): URL {
  return new URL(import.meta.url.endsWith('.ts') ? './engine-main.ts' : './engine-main.js', import.meta.url);
}
