// What goes into an engine and what comes out of it. Token ids and numbers; text never gets here.
import type { ErrorCode } from '../util/errors.ts';
import type { SamplingParams } from './sampling-params.ts';

export interface EngineRequest {
  /** Chosen by the caller, unique among the requests in flight. */
  readonly requestId: string;
  readonly promptTokenIds: Int32Array;
  readonly sampling: SamplingParams;
  /** Lower runs first under the `priority` policy; ignored by `fcfs`. */
  readonly priority: number;
  /** Milliseconds from arrival after which the request is given up; null: never. */
  readonly timeoutMs: number | null;
  /** Requests share cached prefixes only with those of an equal salt. */
  readonly cacheSalt: string;
}

/** `stop`: a stop token; `length`: maxTokens or the context's end; `abort`: cancelled; `error`: see `error`. */
export type FinishReason = 'stop' | 'length' | 'abort' | 'error';

export interface TokenLogprobs {
  readonly tokenId: number;
  readonly logprob: number;
  /** 1 for the most likely token. */
  readonly rank: number;
  /** Most likely first. */
  readonly top: readonly { readonly tokenId: number; readonly logprob: number }[];
}

/** What one step brought to one choice of one request. */
export interface EngineOutput {
  readonly requestId: string;
  /** Which of the `n` choices. */
  readonly index: number;
  readonly tokenIds: readonly number[];
  /** One per token, if asked for. */
  readonly logprobs: readonly TokenLogprobs[] | null;
  /** With the choice 0's first output, if asked for: one per prompt token, null for the first. */
  readonly promptLogprobs: readonly (TokenLogprobs | null)[] | null;
  /** Set with the last output of the choice. */
  readonly finishReason: FinishReason | null;
  /** The stop token that ended it; it is the last of the choice's tokens. */
  readonly stopTokenId: number | null;
  readonly error: { readonly code: ErrorCode; readonly message: string } | null;
  /** Prompt tokens whose KV was found in the prefix cache. */
  readonly numCachedTokens: number;
  /** Of the request, in milliseconds of the engine's clock; set with the choice's last output. */
  readonly timing: RequestTiming | null;
}

export interface RequestTiming {
  readonly queuedMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
  readonly numPreemptions: number;
}

/** The engine's state after a step, for metrics, `/health` and the page. */
export interface EngineStats {
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly numBlocks: number;
  readonly numFreeBlocks: number;
  readonly blockSize: number;
  /** Totals since the engine started. */
  readonly numSteps: number;
  readonly numPreemptions: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly prefixCacheQueries: number; // tokens looked up
  readonly prefixCacheHits: number; // tokens found
  /** Tokens computed by the last step. */
  readonly lastStepTokens: number;
}

/** Known once the engine has loaded its model. */
export interface EngineInfo {
  readonly maxModelLen: number;
  /** The model's own context length, where the memory for its KV cache allowed no more than `maxModelLen`. */
  readonly shortenedFrom: number | null;
  readonly vocabSize: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly device: string;
  readonly recipe: string;
  /** What the recipe costs in quality, where the plan directory says so. */
  readonly quality: PlanQuality | null;
}

/** The figures of a plan's quality card that users of the engine see. */
export interface PlanQuality {
  /** Name of the text that was read. */
  readonly text: string;
  readonly perplexity: number;
  /** 0.01: one percent above the perplexity of `baseline`, another precision of the same model; null if none was measured. */
  readonly perplexityDelta: number | null;
  readonly baseline: string | null;
}

/**
 * The engine as its users see it, in this process or another. `generate` yields outputs until every choice has
 * finished. It throws a `NeedletailError` where the request as a whole fails (queue full, engine died).
 */
export interface EngineClient {
  readonly info: EngineInfo;
  generate(request: EngineRequest, signal?: AbortSignal): AsyncIterable<EngineOutput>;
  /** Ends one choice (a stop string was found in its text) or, without `index`, the whole request. */
  abort(requestId: string, index?: number): void;
  /** The latest statistics; they come with each step's message. */
  stats(): EngineStats;
  /** Resolves true if the engine is alive and makes progress. */
  isHealthy(): Promise<boolean>;
  /** Called after every step; returns what unsubscribes. */
  onStats(listener: (stats: EngineStats) => void): () => void;
  close(): Promise<void>;
}
