// Offline benchmarks: an engine in this process, every request known from the start, no server and no text.
import type { EngineRequest } from '../engine/protocol.ts';
import type { EngineOutput, EngineStats } from '../engine/protocol.ts';
import { GREEDY } from '../engine/sampling-params.ts';
import { NeedletailError } from '../util/errors.ts';
import { percentiles, steadyState, type Percentiles, type SteadyState, type StepSample } from './metrics.ts';
import type { BenchRequest } from './workload.ts';

/** What the benchmarks use of an `LLMEngine`. */
export interface SteppableEngine {
  add(request: EngineRequest): void;
  abort(requestId: string): void;
  step(): Promise<readonly EngineOutput[]>;
  readonly hasWork: boolean;
  stats(): EngineStats;
}

export interface ThroughputResult {
  readonly numRequests: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly outputTokensPerSecond: number;
  /** Input and output tokens. */
  readonly totalTokensPerSecond: number;
  /** Null if the last request was admitted before it had begun. */
  readonly steady: SteadyState | null;
  readonly numSteps: number;
  readonly numPreemptions: number;
  readonly maxRunning: number;
  /** Whether the time was up before the last request had ended. */
  readonly isCut: boolean;
}

/** Greedy, exactly `outputTokens` long, whatever tokens come. */
function engineRequest({ promptTokenIds, outputTokens }: BenchRequest, requestId: string): EngineRequest {
  const sampling = { ...GREEDY, maxTokens: outputTokens };
  return { requestId, promptTokenIds, sampling, priority: 0, timeoutMs: null, cacheSalt: '' };
}

/** Runs the requests, all queued at the start, until they have ended or `onStep`, called after each step, returns false. */
async function runToEnd(
  engine: SteppableEngine,
  requests: readonly BenchRequest[],
  onStep: (outputs: readonly EngineOutput[]) => boolean = () => true,
): Promise<void> {
  requests.forEach((request, i) => engine.add(engineRequest(request, `bench-${i}`)));
  while (engine.hasWork) {
    const outputs = await engine.step();
    for (const { error } of outputs) if (error) throw new NeedletailError(error.code, error.message);
    if (!onStep(outputs)) break;
  }
  requests.forEach((_, i) => engine.abort(`bench-${i}`));
  while (engine.hasWork) await engine.step();
}

/** A short run of the same kind first: it touches every page and fills every cache that is not the KV cache's. */
export async function warmUp(engine: SteppableEngine, requests: readonly BenchRequest[]): Promise<void> {
  const short = requests
    .slice(0, 4)
    .map((request) => ({ ...request, outputTokens: Math.min(request.outputTokens, 8) }));
  await runToEnd(engine, short);
}

export interface ThroughputOptions {
  /** What has not ended by then is given up, and the figures are of what was done. */
  readonly maxSeconds?: number;
  /** The first requests are as `lengthsUnderWay` makes them. */
  readonly isUnderWay?: boolean;
}

export async function runThroughput(
  engine: SteppableEngine,
  requests: readonly BenchRequest[],
  { maxSeconds = Infinity, isUnderWay = false }: ThroughputOptions = {},
): Promise<ThroughputResult> {
  const before = engine.stats();
  const samples: StepSample[] = [];
  const startMs = performance.now();
  const count = { outputTokens: 0, numFinished: 0 };
  await runToEnd(engine, requests, (outputs) => {
    for (const { tokenIds, finishReason } of outputs) {
      count.outputTokens += tokenIds.length;
      if (finishReason !== null) count.numFinished++;
    }
    const atMs = performance.now();
    const { numRunning, numWaiting } = engine.stats();
    samples.push({ atMs, numRunning, numWaiting, ...count });
    return atMs - startMs < 1000 * maxSeconds;
  });
  const after = engine.stats();
  const seconds = ((samples.at(-1)?.atMs ?? startMs) - startMs) / 1000;
  const isCut = count.numFinished < requests.length;
  // Of a run that was cut short nobody knows how far its last prompts had come.
  const done = isCut ? requests.slice(0, count.numFinished) : requests;
  const inputTokens = done.reduce((sum, request) => sum + request.promptTokenIds.length, 0);
  return {
    numRequests: done.length,
    inputTokens,
    outputTokens: count.outputTokens,
    seconds,
    requestsPerSecond: done.length / seconds,
    outputTokensPerSecond: count.outputTokens / seconds,
    totalTokensPerSecond: (inputTokens + count.outputTokens) / seconds,
    steady: steadyState(samples, isUnderWay),
    numSteps: after.numSteps - before.numSteps,
    numPreemptions: after.numPreemptions - before.numPreemptions,
    maxRunning: samples.reduce((max, sample) => Math.max(max, sample.numRunning), 0),
    isCut,
  };
}

export interface LatencyResult {
  /** From queueing the batch to its last token. */
  readonly batchMs: Percentiles;
  /** From queueing the batch until every sequence has its first token. */
  readonly firstTokensMs: Percentiles;
  /** Output tokens of the batch by the median of `batchMs`. */
  readonly outputTokensPerSecond: number;
}

/** The whole batch again and again, with other prompts each time so that no prefix is found in the cache. */
export async function runLatency(
  engine: SteppableEngine,
  batches: readonly (readonly BenchRequest[])[],
): Promise<LatencyResult> {
  const batchMs: number[] = [];
  const firstTokensMs: number[] = [];
  for (const batch of batches) {
    const startMs = performance.now();
    const started = new Set<string>();
    let firstMs = NaN;
    await runToEnd(engine, batch, (outputs) => {
      for (const output of outputs) if (output.tokenIds.length > 0) started.add(output.requestId);
      if (started.size === batch.length && Number.isNaN(firstMs)) firstMs = performance.now() - startMs;
      return true;
    });
    batchMs.push(performance.now() - startMs);
    firstTokensMs.push(firstMs);
  }
  const outputTokens = batches[0].reduce((sum, request) => sum + request.outputTokens, 0);
  const total = percentiles(batchMs);
  return {
    batchMs: total,
    firstTokensMs: percentiles(firstTokensMs),
    outputTokensPerSecond: (1000 * outputTokens) / total.p50,
  };
}
