// Log-probabilities in the shapes of the two endpoints.
import type { TokenLogprob, TopLogprob } from '../llm/chunk.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { CommonRequest } from './protocol.ts';

/** JSON has no −∞. */
const MIN_LOGPROB = -9999;

export interface CompletionLogprobs {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  readonly text_offset: number[];
}

export interface ChatTokenLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
  readonly top_logprobs?: ChatTokenLogprob[];
}

/** What of a request concerns how tokens are written. */
export type LogprobsFields = Pick<CommonRequest, 'return_tokens_as_token_ids' | 'skip_special_tokens'>;

type PromptLogprob = Record<string, { logprob: number; rank: number; decoded_token: string }>;

export class LogprobsFormat {
  readonly #tokenizer: Tokenizer | null;
  readonly #asTokenIds: boolean;
  /** Tokens that are no part of the text. */
  readonly #hidden: ReadonlySet<string>;

  constructor(tokenizer: Tokenizer | null, request: LogprobsFields) {
    this.#tokenizer = tokenizer;
    // Without a tokenizer there is no other way to write them.
    this.#asTokenIds = request.return_tokens_as_token_ids === true || tokenizer === null;
    this.#hidden = new Set(request.skip_special_tokens === false ? [] : tokenizer?.allSpecialTokens);
  }

  /** Characters that the tokens add to a choice's text. */
  textLength(entries: readonly TokenLogprob[]): number {
    return entries.reduce((sum, entry) => sum + this.#lengthOf(entry), 0);
  }

  /** @param textOffset characters of the choice's text before these tokens */
  completion(entries: readonly TokenLogprob[], textOffset: number): CompletionLogprobs {
    let offset = textOffset;
    return {
      tokens: entries.map((entry) => this.#name(entry)),
      token_logprobs: entries.map(({ logprob }) => logprob && clamp(logprob)),
      top_logprobs: entries.map((entry) => this.#topByName(entry)),
      text_offset: entries.map((entry) => {
        const start = offset;
        offset += this.#lengthOf(entry);
        return start;
      }),
    };
  }

  chat(entries: readonly TokenLogprob[]): ChatTokenLogprob[] {
    return entries.map((entry) => ({
      ...this.#chatToken(entry, entry.logprob ?? 0),
      top_logprobs: entry.top.map((other) => this.#chatToken(other, other.logprob)),
    }));
  }

  /** The token itself and the likeliest ones, by id; null for the first token, which nothing predicts. */
  prompt(entries: readonly TokenLogprob[]): (PromptLogprob | null)[] {
    return entries.map(({ tokenId, token, logprob, rank, top }) => {
      if (logprob === null || rank === null) return null;
      const likeliest = top.map((other, i) => [
        other.tokenId,
        promptEntry(other.token, other.logprob, i + 1),
      ]);
      return Object.fromEntries([
        ...likeliest,
        [tokenId, promptEntry(token, logprob, rank)],
      ]) as PromptLogprob;
    });
  }

  /** OpenAI's form has the sampled token beside the likeliest, so up to one more. Of tokens that look alike the likelier stays. */
  #topByName(entry: TokenLogprob): Record<string, number> | null {
    if (entry.logprob === null) return null;
    const byName: Record<string, number> = {};
    for (const other of [...entry.top, { ...entry, logprob: entry.logprob }]) {
      byName[this.#name(other)] ??= clamp(other.logprob);
    }
    return byName;
  }

  #chatToken(entry: Pick<TopLogprob, 'tokenId' | 'token'>, logprob: number): ChatTokenLogprob {
    const bytes = this.#tokenizer?.bytesOf(entry.tokenId) ?? [];
    return { token: this.#name(entry), logprob: clamp(logprob), bytes: [...bytes] };
  }

  #lengthOf({ token }: TokenLogprob): number {
    return this.#hidden.has(token) ? 0 : token.length;
  }

  #name({ tokenId, token }: Pick<TopLogprob, 'tokenId' | 'token'>): string {
    return this.#asTokenIds ? `token_id:${tokenId}` : token;
  }
}

function promptEntry(token: string, logprob: number, rank: number) {
  return { logprob: clamp(logprob), rank, decoded_token: token };
}

function clamp(logprob: number): number {
  return Math.max(logprob, MIN_LOGPROB);
}
