// The requests that run now: their metrics, what `/stats` shows, and the estimate behind Retry-After.
import type { EngineStats, RequestTiming } from '../engine/protocol.ts';
import type { GenerationChunk } from '../llm/chunk.ts';
import type { GenerationJob } from '../llm/resolve.ts';
import type { Metrics } from './metrics.ts';

/** Weight of the newest request in the mean time that requests take. */
const NEWEST_WEIGHT = 0.1;
const FIRST_GUESS_MS = 1000;
const MAX_RETRY_AFTER_S = 600;

export class InFlightRequests {
  readonly #metrics: Metrics;
  readonly #requests = new Set<InFlightRequest>();
  #meanInferenceMs = FIRST_GUESS_MS;

  constructor(metrics: Metrics) {
    this.#metrics = metrics;
  }

  get size(): number {
    return this.#requests.size;
  }

  [Symbol.iterator](): Iterator<InFlightRequest> {
    return this.#requests.values();
  }

  begin(job: GenerationJob, arrivalMs: number): InFlightRequest {
    const request = new InFlightRequest(job, arrivalMs, this.#metrics);
    this.#requests.add(request);
    return request;
  }

  /** `failure`: why it ended before its time; null: it did not. */
  end(request: InFlightRequest, failure: 'abort' | 'error' | null): void {
    this.#requests.delete(request);
    if (failure !== null) request.observeFailure(failure);
    else if (request.timing !== null) this.#observeTiming(request.timing);
  }

  /**
   * Seconds until the queue has emptied at its present pace: requests leave at `numRunning` per mean inference time
   * (Little's law).
   */
  retryAfterSeconds({ numWaiting, numRunning }: EngineStats): number {
    const seconds = (numWaiting * this.#meanInferenceMs) / (1000 * Math.max(1, numRunning));
    return Math.min(Math.max(Math.ceil(seconds), 1), MAX_RETRY_AFTER_S);
  }

  #observeTiming({ queuedMs, prefillMs, decodeMs }: RequestTiming): void {
    const { queue, prefill, decode, inference } = this.#metrics.histograms;
    const inferenceMs = prefillMs + decodeMs;
    queue.observe(queuedMs / 1000);
    prefill.observe(prefillMs / 1000);
    decode.observe(decodeMs / 1000);
    inference.observe(inferenceMs / 1000);
    this.#meanInferenceMs += NEWEST_WEIGHT * (inferenceMs - this.#meanInferenceMs);
  }
}

export class InFlightRequest {
  readonly id: string;
  readonly arrivalMs: number;
  readonly numPromptTokens: number;
  timing: RequestTiming | null = null;
  readonly #metrics: Metrics;
  /** Of each choice: tokens so far, and when the last of them came. */
  readonly #numTokens: number[];
  readonly #lastTokenMs: number[];
  #numOpen: number;

  constructor(job: GenerationJob, arrivalMs: number, metrics: Metrics) {
    const { n, maxTokens } = job.request.sampling;
    this.id = job.request.requestId;
    this.arrivalMs = arrivalMs;
    this.numPromptTokens = job.request.promptTokenIds.length;
    this.#metrics = metrics;
    this.#numTokens = new Array<number>(n).fill(0);
    this.#lastTokenMs = new Array<number>(n).fill(0);
    this.#numOpen = n;
    metrics.histograms.promptTokens.observe(this.numPromptTokens);
    metrics.histograms.paramsN.observe(n);
    metrics.histograms.paramsMaxTokens.observe(maxTokens);
  }

  get numGeneratedTokens(): number {
    return this.#numTokens.reduce((sum, count) => sum + count, 0);
  }

  observe(chunk: GenerationChunk, nowMs: number): void {
    if (chunk.tokenIds.length > 0) this.#observeTokens(chunk, nowMs);
    if (chunk.finishReason !== null) this.#observeFinish(chunk.index, chunk.finishReason, nowMs);
    this.timing = chunk.timing ?? this.timing;
  }

  observeFailure(reason: 'abort' | 'error'): void {
    this.#metrics.finishedChoices.inc({ finished_reason: reason }, this.#numOpen);
  }

  #observeTokens({ index, tokenIds }: GenerationChunk, nowMs: number): void {
    const { timeToFirstToken, interToken } = this.#metrics.histograms;
    if (this.#numTokens[index] !== 0) {
      // Tokens that came together share the time since the last ones.
      const gapMs = (nowMs - this.#lastTokenMs[index]) / tokenIds.length;
      for (let i = 0; i < tokenIds.length; i++) interToken.observe(gapMs / 1000);
    } else if (this.numGeneratedTokens === 0) timeToFirstToken.observe((nowMs - this.arrivalMs) / 1000);
    this.#numTokens[index] += tokenIds.length;
    this.#lastTokenMs[index] = nowMs;
  }

  #observeFinish(index: number, reason: 'stop' | 'length', nowMs: number): void {
    const { histograms, finishedChoices } = this.#metrics;
    finishedChoices.inc({ finished_reason: reason });
    histograms.generationTokens.observe(this.#numTokens[index]);
    if (--this.#numOpen > 0) return;
    histograms.endToEnd.observe((nowMs - this.arrivalMs) / 1000);
    histograms.maxGenerationTokens.observe(Math.max(...this.#numTokens));
  }
}
