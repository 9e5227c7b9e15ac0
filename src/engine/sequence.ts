// One token stream with its KV blocks: a choice of a request, or its prompt before the choices part ways.
import type { SequenceBlocks } from './block-manager.ts';
import { Int32List } from './int32-list.ts';
import type { RequestState } from './request-state.ts';
import { TokenHistory } from './token-history.ts';

export type SequenceState = 'waiting' | 'running' | 'finished';

export class Sequence {
  readonly request: RequestState;
  readonly tokens: Int32List;
  readonly numPromptTokens: number;
  /** Tokens at the most, output included. */
  readonly maxNumTokens: number;
  readonly blocks: SequenceBlocks;
  /** Null unless a penalty needs it. */
  readonly history: TokenHistory | null;
  /** Choices that this sequence will become: all that are left of `n` until its prompt is computed, then one. */
  choices: readonly number[];
  state: SequenceState = 'waiting';
  /** The first so many tokens have their KV in the cache. */
  numComputed = 0;

  constructor(
    request: RequestState,
    promptTokenIds: Int32Array,
    options: { maxModelLen: number; blocks: SequenceBlocks },
  ) {
    const { n, maxTokens } = request.sampling;
    this.request = request;
    this.tokens = Int32List.from(promptTokenIds);
    this.numPromptTokens = promptTokenIds.length;
    this.maxNumTokens = Math.min(promptTokenIds.length + maxTokens, options.maxModelLen);
    this.blocks = options.blocks;
    this.history = promptHistory(request, promptTokenIds);
    this.choices = Array.from({ length: n }, (_, choice) => choice);
  }

  get numTokens(): number {
    return this.tokens.length;
  }

  get numOutputTokens(): number {
    return this.tokens.length - this.numPromptTokens;
  }

  /** Tokens without KV: one in decode, more in prefill. */
  get numUncomputed(): number {
    return this.tokens.length - this.numComputed;
  }

  /** Whether the request wants anything from the logits of the last token. */
  get wantsToken(): boolean {
    return this.request.sampling.maxTokens > 0;
  }

  append(tokenId: number): void {
    this.tokens.push(tokenId);
    this.history?.add(tokenId, true);
  }

  /** Called before the first output token: another stream that goes on from the same prompt. */
  fork(choice: number, blocks: SequenceBlocks): Sequence {
    const child = new Sequence(this.request, this.tokens.view(), { maxModelLen: this.maxNumTokens, blocks });
    child.choices = [choice];
    child.numComputed = this.numComputed;
    child.state = this.state;
    return child;
  }
}

function promptHistory(request: RequestState, promptTokenIds: Int32Array): TokenHistory | null {
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = request.sampling;
  if (repetitionPenalty === 1 && presencePenalty === 0 && frequencyPenalty === 0) return null;
  const history = new TokenHistory();
  // Presence and frequency look at the output alone.
  if (repetitionPenalty !== 1) for (const tokenId of promptTokenIds) history.add(tokenId, false);
  return history;
}

/** Order in which sequences run: more urgent first, then earlier arrivals, then lower choices. */
export function compareSequences(a: Sequence, b: Sequence): number {
  return (
    a.request.priority - b.request.priority ||
    a.request.order - b.request.order ||
    a.choices[0] - b.choices[0]
  );
}
