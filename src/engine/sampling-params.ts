// How a request's tokens are chosen and when it ends: numbers only, validated before they reach the engine.

export interface SamplingParams {
  /** 0 takes the most likely token. */
  readonly temperature: number;
  /** 0: off. */
  readonly topK: number;
  /** In (0, 1]; 1: off. */
  readonly topP: number;
  /** In [0, 1]; 0: off. */
  readonly minP: number;
  /** Above 0; 1: off. */
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly logitBias: readonly { readonly tokenId: number; readonly bias: number }[];
  /** Unsigned 64 bits. Choice `i` of a request with `n` choices uses seed + i. */
  readonly seed: bigint;
  /** Independent choices; they share the prompt's KV blocks. */
  readonly n: number;
  /** Output tokens at most; 0 computes the prompt only. */
  readonly maxTokens: number;
  /** Before so many output tokens, end and stop tokens are banned. */
  readonly minTokens: number;
  /** Tokens that end the output: the model's end tokens (unless ignored) and the request's own. */
  readonly stopTokenIds: readonly number[];
  /** null: none; k: the chosen token's log-probability and the k most likely ones'. */
  readonly logprobs: number | null;
  /** The same for the prompt's tokens. */
  readonly promptLogprobs: number | null;
}

export const GREEDY: SamplingParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
  seed: 0n,
  n: 1,
  maxTokens: 16,
  minTokens: 0,
  stopTokenIds: [],
  logprobs: null,
  promptLogprobs: null,
};
