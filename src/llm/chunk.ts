// What a generation yields, piece by piece and as a whole.
import type { RequestTiming } from '../engine/protocol.ts';

export interface TopLogprob {
  readonly tokenId: number;
  readonly token: string;
  readonly logprob: number;
}

/** A token with its natural-log probability before temperature and cuts. */
export interface TokenLogprob {
  readonly tokenId: number;
  /** The token's own text; empty without a tokenizer. */
  readonly token: string;
  /** null for the very first prompt token, which nothing predicts. */
  readonly logprob: number | null;
  /** 1 for the most likely token; null where `logprob` is. */
  readonly rank: number | null;
  /** The most likely tokens, best first. */
  readonly top: readonly TopLogprob[];
}

/** What one step of the engine brought to one choice. */
export interface GenerationChunk {
  /** Which of the `n` choices. */
  readonly index: number;
  /** May be empty while characters are incomplete or a stop string may be beginning. */
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** One per token (the prompt's too, with `echo`), if asked for. */
  readonly logprobs: readonly TokenLogprob[] | null;
  /** With the request's first chunk, if asked for: one per prompt token. */
  readonly promptLogprobs: readonly TokenLogprob[] | null;
  /** Set with the choice's last chunk. */
  readonly finishReason: 'stop' | 'length' | null;
  /** The stop string, or the request's own stop token, that ended the choice. */
  readonly stopReason: string | number | null;
  /** Prompt tokens whose KV was cached. */
  readonly numCachedTokens: number;
  /** Of the request; comes with the last chunk of a choice or, where a stop string ended it, alone after it. */
  readonly timing: RequestTiming | null;
}

export interface GenerationChoice {
  readonly index: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly TokenLogprob[] | null;
  readonly finishReason: 'stop' | 'length';
  readonly stopReason: string | number | null;
}

export interface GenerationResult {
  /** The text of the first choice. */
  readonly text: string;
  readonly choices: readonly GenerationChoice[];
  readonly promptTokenIds: Int32Array;
  readonly promptLogprobs: readonly TokenLogprob[] | null;
  readonly usage: Usage;
}

export interface Usage {
  readonly promptTokens: number;
  /** Over all choices. */
  readonly completionTokens: number;
  readonly cachedTokens: number;
}
