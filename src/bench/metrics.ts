// The formulas of every number that the benchmarks print; docs/metrics.md states the same in words.

export interface Percentiles {
  readonly n: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

/** The `p`-th percentile (0 to 100) of ascending values, linear between neighbours; NaN of nothing. */
export function percentile(ascending: ArrayLike<number>, p: number): number {
  if (ascending.length === 0) return NaN;
  const rank = (p / 100) * (ascending.length - 1);
  const below = Math.floor(rank);
  const above = Math.ceil(rank);
  return ascending[below] + (rank - below) * (ascending[above] - ascending[below]);
}

export function percentiles(values: readonly number[]): Percentiles {
  const sorted = Float64Array.from(values).sort();
  const at = (p: number) => percentile(sorted, p);
  return { n: sorted.length, p50: at(50), p90: at(90), p99: at(99) };
}

/** The middle of the values. */
export function median(values: readonly number[]): number {
  return percentile(Float64Array.from(values).sort(), 50);
}

/** One finished request as its client saw it. Times are milliseconds of one clock. */
export interface RequestTimes {
  readonly sentMs: number;
  /** Arrival of each output token, ascending; tokens that came together share a time. */
  readonly tokenMs: readonly number[];
  readonly inputTokens: number;
  /** As the server's `usage` says. */
  readonly outputTokens: number;
}

/** First token's arrival − send; NaN without a token. */
export function ttftMs(request: RequestTimes): number {
  return (request.tokenMs[0] ?? NaN) - request.sentMs;
}

/** Last token's arrival − send; NaN without a token. */
export function e2elMs(request: RequestTimes): number {
  return (request.tokenMs.at(-1) ?? NaN) - request.sentMs;
}

/** (E2EL − TTFT) / (output tokens − 1); NaN for fewer than two tokens. */
export function tpotMs(request: RequestTimes): number {
  return request.outputTokens < 2 ? NaN : (e2elMs(request) - ttftMs(request)) / (request.outputTokens - 1);
}

/** Gaps between successive tokens of one request. */
export function interTokenGapsMs({ tokenMs }: RequestTimes): number[] {
  return tokenMs.slice(1).map((at, i) => at - tokenMs[i]);
}

/** Upper bounds that a request must keep to count for goodput; null: no bound. */
export interface ServiceLevel {
  readonly ttftMs: number | null;
  readonly tpotMs: number | null;
  readonly e2elMs: number | null;
}

export function meetsServiceLevel(request: RequestTimes, level: ServiceLevel): boolean {
  const keeps = (value: number, bound: number | null) =>
    bound === null || Number.isNaN(value) || value <= bound;
  return (
    keeps(ttftMs(request), level.ttftMs) &&
    keeps(tpotMs(request), level.tpotMs) &&
    keeps(e2elMs(request), level.e2elMs)
  );
}

export interface ServingMetrics {
  readonly completed: number;
  readonly failed: number;
  /** First send to last arrival. */
  readonly durationSeconds: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly requestsPerSecond: number;
  readonly outputTokensPerSecond: number;
  /** Input and output tokens. */
  readonly totalTokensPerSecond: number;
  readonly ttftMs: Percentiles;
  readonly tpotMs: Percentiles;
  /** Pooled over all requests. */
  readonly itlMs: Percentiles;
  readonly e2elMs: Percentiles;
  /** Completed requests per second that keep every bound; null if none was stated. */
  readonly goodputRequestsPerSecond: number | null;
}

/** What a load run shows of a server. `requests` are those that completed. */
export function servingMetrics(
  requests: readonly RequestTimes[],
  failed: number,
  level: ServiceLevel | null,
): ServingMetrics {
  const durationSeconds = wallSeconds(requests);
  const inputTokens = sum(requests.map((request) => request.inputTokens));
  const outputTokens = sum(requests.map((request) => request.outputTokens));
  const over = (of: (request: RequestTimes) => number) =>
    percentiles(requests.map(of).filter((value) => !Number.isNaN(value)));
  return {
    completed: requests.length,
    failed,
    durationSeconds,
    inputTokens,
    outputTokens,
    requestsPerSecond: requests.length / durationSeconds,
    outputTokensPerSecond: outputTokens / durationSeconds,
    totalTokensPerSecond: (inputTokens + outputTokens) / durationSeconds,
    ttftMs: over(ttftMs),
    tpotMs: over(tpotMs),
    itlMs: percentiles(requests.flatMap(interTokenGapsMs)),
    e2elMs: over(e2elMs),
    goodputRequestsPerSecond:
      level && requests.filter((request) => meetsServiceLevel(request, level)).length / durationSeconds,
  };
}

function wallSeconds(requests: readonly RequestTimes[]): number {
  let first = Infinity;
  let last = -Infinity;
  for (const { sentMs, tokenMs } of requests) {
    first = Math.min(first, sentMs);
    last = Math.max(last, tokenMs.at(-1) ?? sentMs);
  }
  return (last - first) / 1000;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** What one engine step left behind, for the steady state. */
export interface StepSample {
  /** When the step ended. */
  readonly atMs: number;
  readonly numRunning: number;
  readonly numWaiting: number;
  /** Requests that have ended so far. */
  readonly numFinished: number;
  /** Output tokens so far. */
  readonly outputTokens: number;
}

export interface SteadyState {
  readonly outputTokensPerSecond: number;
  /** Requests that ended meanwhile, of as many as ran at once. A share of a generation may hold more prompts than its due. */
  readonly generations: number;
}

/**
 * From the end of the first generation (when as many requests have ended as ran at once) to the last admission: without the
 * batch's filling and emptying, and with sequences of all ages. Where they are of all ages from the start (`isUnderWay`), from the
 * first end. Null if that is less than two steps.
 */
export function steadyState(samples: readonly StepSample[], isUnderWay: boolean): SteadyState | null {
  const most = samples.reduce((max, sample) => Math.max(max, sample.numRunning), 0);
  const first = samples.find((sample) => sample.numFinished >= (isUnderWay ? 1 : most));
  const last = samples.findLast((sample, i) => i > 0 && sample.numWaiting < samples[i - 1].numWaiting);
  if (!first || !last || last.atMs <= first.atMs) return null;
  return {
    outputTokensPerSecond: (1000 * (last.outputTokens - first.outputTokens)) / (last.atMs - first.atMs),
    generations: (last.numFinished - first.numFinished) / most,
  };
}
