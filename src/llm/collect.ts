// Gathers the chunks of a generation into its result.
import type { GenerationChoice, GenerationChunk, GenerationResult, TokenLogprob } from './chunk.ts';

interface OpenChoice {
  text: string;
  tokenIds: number[];
  logprobs: TokenLogprob[] | null;
  end: GenerationChunk | null;
}

export class ResultCollector {
  readonly #promptTokenIds: Int32Array;
  readonly #choices: OpenChoice[];
  #promptLogprobs: readonly TokenLogprob[] | null = null;
  #cachedTokens = 0;

  constructor(promptTokenIds: Int32Array, numChoices: number) {
    this.#promptTokenIds = promptTokenIds;
    this.#choices = Array.from({ length: numChoices }, () => ({
      text: '',
      tokenIds: [],
      logprobs: null,
      end: null,
    }));
  }

  add(chunk: GenerationChunk): void {
    const choice = this.#choices[chunk.index];
    choice.text += chunk.text;
    for (const id of chunk.tokenIds) choice.tokenIds.push(id);
    if (chunk.logprobs !== null) (choice.logprobs ??= []).push(...chunk.logprobs);
    if (chunk.finishReason !== null) choice.end = chunk;
    this.#promptLogprobs ??= chunk.promptLogprobs;
    this.#cachedTokens = Math.max(this.#cachedTokens, chunk.numCachedTokens);
  }

  /** Call it when every choice has finished. */
  result(): GenerationResult {
    const choices = this.#choices.map(closeChoice);
    return {
      text: choices[0].text,
      choices,
      promptTokenIds: this.#promptTokenIds,
      promptLogprobs: this.#promptLogprobs,
      usage: {
        promptTokens: this.#promptTokenIds.length,
        completionTokens: choices.reduce((sum, choice) => sum + choice.tokenIds.length, 0),
        cachedTokens: this.#cachedTokens,
      },
    };
  }
}

function closeChoice({ text, tokenIds, logprobs, end }: OpenChoice, index: number): GenerationChoice {
  return {
    index,
    text,
    tokenIds,
    logprobs,
    finishReason: end!.finishReason!,
    stopReason: end!.stopReason,
  };
}
