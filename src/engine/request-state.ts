// A request as the engine knows it: what was asked for, when it must end, and what its choices have in common.
import type { EngineRequest, RequestTiming, TokenLogprobs } from './protocol.ts';
import type { SamplingParams } from './sampling-params.ts';

export class RequestState {
  readonly id: string;
  readonly sampling: SamplingParams;
  readonly stopTokenIds: ReadonlySet<number>;
  /** Two halves of each choice's 64-bit seed, low then high. */
  readonly seeds: Uint32Array;
  readonly cacheSalt: string;
  /** Lower runs first. */
  readonly priority: number;
  /** Counts arrivals. */
  readonly order: number;
  readonly arrivalMs: number;
  readonly deadlineMs: number;
  readonly numPromptTokens: number;
  numCachedTokens = 0;
  numPreemptions = 0;
  /** One per prompt token whose score is known; null if not asked for or handed out. */
  #promptLogprobs: (TokenLogprobs | null)[] | null;
  #scheduledMs: number | null = null;
  #prefilledMs: number | null = null;

  constructor(request: EngineRequest, order: number, arrivalMs: number) {
    this.id = request.requestId;
    this.sampling = request.sampling;
    this.stopTokenIds = new Set(request.sampling.stopTokenIds);
    this.seeds = choiceSeeds(request.sampling);
    this.cacheSalt = request.cacheSalt;
    this.priority = request.priority;
    this.order = order;
    this.arrivalMs = arrivalMs;
    this.deadlineMs = request.timeoutMs === null ? Infinity : arrivalMs + request.timeoutMs;
    this.numPromptTokens = request.promptTokenIds.length;
    this.#promptLogprobs = request.sampling.promptLogprobs === null ? null : [null];
  }

  /** The first prompt token whose logits are still wanted, to score its successor; the last needs none. */
  get firstUnscored(): number {
    return this.#promptLogprobs === null ? this.numPromptTokens : this.#promptLogprobs.length - 1;
  }

  addPromptLogprobs(scored: readonly TokenLogprobs[]): void {
    for (const logprobs of scored) this.#promptLogprobs?.push(logprobs);
  }

  /** Once, when the prompt is computed and they are complete. */
  takePromptLogprobs(): (TokenLogprobs | null)[] | null {
    if (this.#prefilledMs === null) return null;
    const promptLogprobs = this.#promptLogprobs;
    this.#promptLogprobs = null;
    return promptLogprobs;
  }

  /** True the first time only: preemption does not start a request anew. */
  markScheduled(nowMs: number, numCachedTokens: number): boolean {
    if (this.#scheduledMs !== null) return false;
    this.#scheduledMs = nowMs;
    this.numCachedTokens = numCachedTokens;
    return true;
  }

  markPrefilled(nowMs: number): void {
    this.#prefilledMs ??= nowMs;
  }

  timing(nowMs: number): RequestTiming {
    const scheduledMs = this.#scheduledMs ?? nowMs;
    const prefilledMs = this.#prefilledMs ?? nowMs;
    return {
      queuedMs: scheduledMs - this.arrivalMs,
      prefillMs: prefilledMs - scheduledMs,
      decodeMs: nowMs - prefilledMs,
      numPreemptions: this.numPreemptions,
    };
  }
}

/** Choice `i` draws from seed + i, modulo 2^64. */
function choiceSeeds({ seed, n }: SamplingParams): Uint32Array {
  const seeds = new BigUint64Array(n);
  for (let choice = 0; choice < n; choice++) seeds[choice] = BigInt.asUintN(64, seed + BigInt(choice));
  return new Uint32Array(seeds.buffer);
}
