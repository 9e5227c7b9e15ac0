// Prometheus metrics under vLLM's names, labels and buckets, one registry per server. docs/metrics.md has the formulas.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineClient, EngineStats } from '../engine/protocol.ts';

const FIRST_TOKEN_BUCKETS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
  2560,
];
const INTER_TOKEN_BUCKETS = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const REQUEST_BUCKETS = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];
const ITERATION_BUCKETS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
const N_BUCKETS = [1, 2, 5, 10, 20];
const HTTP_BUCKETS = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60];

/** Buckets 'tokens': 1, 2, 5, 10, … up to the context's length. */
const HISTOGRAMS = {
  timeToFirstToken: ['vllm:time_to_first_token_seconds', 'Arrival to first token', FIRST_TOKEN_BUCKETS],
  interToken: [
    'vllm:inter_token_latency_seconds',
    "Between a choice's successive tokens",
    INTER_TOKEN_BUCKETS,
  ],
  endToEnd: ['vllm:e2e_request_latency_seconds', 'Arrival to last token', REQUEST_BUCKETS],
  queue: ['vllm:request_queue_time_seconds', 'Arrival in the engine to being scheduled', REQUEST_BUCKETS],
  inference: ['vllm:request_inference_time_seconds', 'Scheduled to last token', REQUEST_BUCKETS],
  prefill: ['vllm:request_prefill_time_seconds', 'Scheduled to first token', REQUEST_BUCKETS],
  decode: ['vllm:request_decode_time_seconds', 'First to last token', REQUEST_BUCKETS],
  promptTokens: ['vllm:request_prompt_tokens', 'Prompt tokens of a request', 'tokens'],
  generationTokens: ['vllm:request_generation_tokens', 'Tokens of a choice', 'tokens'],
  maxGenerationTokens: ['vllm:request_max_num_generation_tokens', 'Tokens of the longest choice', 'tokens'],
  paramsN: ['vllm:request_params_n', 'Choices asked for', N_BUCKETS],
  paramsMaxTokens: ['vllm:request_params_max_tokens', 'Output tokens allowed', 'tokens'],
  iterationTokens: ['vllm:iteration_tokens_total', 'Tokens computed in a step', ITERATION_BUCKETS],
} as const satisfies Record<string, readonly [string, string, readonly number[] | 'tokens']>;

/** The engine's running totals, as counters. */
const TOTALS = {
  promptTokens: ['vllm:prompt_tokens_total', 'Prompt tokens of requests that were begun'],
  generatedTokens: ['vllm:generation_tokens_total', 'Tokens generated'],
  numPreemptions: ['vllm:num_preemptions_total', 'Times that a sequence gave up its KV blocks'],
  prefixCacheQueries: ['vllm:prefix_cache_queries_total', 'Tokens looked up in the prefix cache'],
  prefixCacheHits: ['vllm:prefix_cache_hits_total', 'Tokens found in the prefix cache'],
} as const satisfies Partial<Record<keyof EngineStats, readonly [string, string]>>;

type HistogramName = keyof typeof HISTOGRAMS;
type Total = keyof typeof TOTALS;

export class Metrics {
  readonly registry = new Registry();
  readonly histograms: Readonly<Record<HistogramName, Histogram>>;
  readonly finishedChoices: Counter<'finished_reason'>;
  readonly #httpRequests: Counter;
  readonly #httpSeconds: Histogram;
  readonly #unsubscribe: () => void;

  constructor(engine: EngineClient, modelName: string) {
    const registers = [this.registry];
    this.registry.setDefaultLabels({ model_name: modelName, engine: '0' });
    this.histograms = createHistograms(this.registry, engine.info.maxModelLen);
    this.finishedChoices = new Counter({
      name: 'vllm:request_success_total',
      help: 'Choices that ended, by what ended them',
      labelNames: ['finished_reason'],
      registers,
    });
    const labelNames = ['handler', 'method'];
    this.#httpRequests = new Counter({
      name: 'http_requests_total',
      help: 'HTTP requests answered',
      labelNames: [...labelNames, 'status'],
      registers,
    });
    this.#httpSeconds = new Histogram({
      name: 'http_request_duration_seconds',
      help: 'HTTP request to the end of its response',
      labelNames,
      buckets: HTTP_BUCKETS,
      registers,
    });
    createGauges(this.registry, engine);
    this.#unsubscribe = this.#watch(engine);
  }

  /** `status` is counted by its class: 2xx, 4xx, … */
  observeHttp(handler: string, method: string, status: number, seconds: number): void {
    this.#httpRequests.inc({ handler, method, status: `${Math.floor(status / 100)}xx` });
    this.#httpSeconds.observe({ handler, method }, seconds);
  }

  close(): void {
    this.#unsubscribe();
    this.registry.clear();
  }

  #watch(engine: EngineClient): () => void {
    const counters = createTotals(this.registry);
    let last = engine.stats();
    for (const total of Object.keys(counters) as Total[]) counters[total].inc(last[total]);
    return engine.onStats((stats) => {
      // An engine that was started anew counts from 0.
      for (const total of Object.keys(counters) as Total[]) {
        const added = stats[total] - last[total];
        if (added !== 0) counters[total].inc(added > 0 ? added : stats[total]);
      }
      if (stats.numSteps !== last.numSteps) this.histograms.iterationTokens.observe(stats.lastStepTokens);
      last = stats;
    });
  }
}

function createHistograms(registry: Registry, maxModelLen: number): Record<HistogramName, Histogram> {
  const tokenBuckets = oneTwoFive(maxModelLen);
  const entries = Object.entries(HISTOGRAMS).map(([key, [name, help, buckets]]) => [
    key,
    new Histogram({
      name,
      help,
      buckets: buckets === 'tokens' ? tokenBuckets : [...buckets],
      registers: [registry],
    }),
  ]);
  return Object.fromEntries(entries) as Record<HistogramName, Histogram>;
}

function createTotals(registry: Registry): Record<Total, Counter> {
  const entries = Object.entries(TOTALS).map(([key, [name, help]]) => [
    key,
    new Counter({ name, help, registers: [registry] }),
  ]);
  return Object.fromEntries(entries) as Record<Total, Counter>;
}

/** Read when they are asked for. */
function createGauges(registry: Registry, engine: EngineClient): void {
  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value());
      },
    });
  gauge('vllm:num_requests_running', 'Sequences that are being computed', () => engine.stats().numRunning);
  gauge('vllm:num_requests_waiting', 'Requests in the queue', () => engine.stats().numWaiting);
  gauge('vllm:kv_cache_usage_perc', 'Share of KV blocks in use, from 0 to 1', () =>
    kvCacheUsage(engine.stats()),
  );
  gauge('process_resident_memory_bytes', "The API process's resident memory", () =>
    process.memoryUsage.rss(),
  );
  const { blockSize, numBlocks } = engine.info;
  new Gauge({
    name: 'vllm:cache_config_info',
    help: 'The KV cache, as labels',
    labelNames: ['block_size', 'num_gpu_blocks'],
    registers: [registry],
  }).set({ block_size: String(blockSize), num_gpu_blocks: String(numBlocks) }, 1);
}

/** From 0 to 1. */
export function kvCacheUsage({ numBlocks, numFreeBlocks }: EngineStats): number {
  return numBlocks === 0 ? 0 : 1 - numFreeBlocks / numBlocks;
}

/** 1, 2, 5, 10, 20, 50, … not above `max`. */
function oneTwoFive(max: number): number[] {
  const buckets: number[] = [];
  for (let decade = 1; decade <= max; decade *= 10) {
    buckets.push(...[1, 2, 5].map((step) => step * decade).filter((bucket) => bucket <= max));
  }
  return buckets;
}
