// Token counts of a response, as `usage` reports them.
import type { GenerationChunk } from '../llm/chunk.ts';
import type { GenerationJob } from '../llm/resolve.ts';

export interface UsageBody {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** Prompts count once, whatever `n`; all choices' tokens count. */
export class UsageMeter {
  readonly #promptTokens: number;
  /** Of each prompt. */
  readonly #cachedTokens: number[];
  #completionTokens = 0;

  constructor(jobs: readonly GenerationJob[]) {
    this.#promptTokens = jobs.reduce((sum, { request }) => sum + request.promptTokenIds.length, 0);
    this.#cachedTokens = new Array<number>(jobs.length).fill(0);
  }

  add(prompt: number, { tokenIds, numCachedTokens }: GenerationChunk): void {
    this.#completionTokens += tokenIds.length;
    if (numCachedTokens > this.#cachedTokens[prompt]) this.#cachedTokens[prompt] = numCachedTokens;
  }

  body(): UsageBody {
    return {
      prompt_tokens: this.#promptTokens,
      completion_tokens: this.#completionTokens,
      total_tokens: this.#promptTokens + this.#completionTokens,
      prompt_tokens_details: { cached_tokens: this.#cachedTokens.reduce((sum, count) => sum + count, 0) },
    };
  }
}
