// One token stream with its KV blocks: a choice of a request, or its prompt before the choices part ways.
import type { SequenceBlocks } from './block-manager.ts';
import { Int32List } from './int32-list.ts';
import type { RequestState } from './request-state.ts';
import { TokenHistory } from './token-history.ts';

export type SequenceState = 'waiting' | 'running' | 'finished';

/** One sequence's part of a step: its tokens `[start, end)`. */
export interface ScheduledSequence {
  readonly sequence: Sequence;
  readonly start: number;
  readonly end: number;
  /** Row of the step before this one that draws token `end - 1`; −1 if all tokens are known. */
  readonly drawnByRow: number;
  /** Prompt tokens `[firstPromptRow, endPromptRow)` whose successors are scored. */
  readonly firstPromptRow: number;
  readonly endPromptRow: number;
  /** Choices that draw a token from the logits of the last one. */
  readonly choices: readonly number[];
  /** The first of its rows of logits in the step: one per scored prompt token, then one per choice. */
  readonly firstRow: number;
}

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
  /** Its parts of steps that have not ended yet, in their order. */
  readonly underWay: ScheduledSequence[] = [];

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

  /** Tokens that are known and have no KV yet. */
  get numUncomputed(): number {
    return this.tokens.length - this.numComputed;
  }

  /** Tokens once the steps under way have ended: those that they draw count, though nobody knows them yet. */
  get numTokensAhead(): number {
    let numTokens = this.tokens.length;
    for (const { choices } of this.underWay) if (choices.length > 0) numTokens++;
    return numTokens;
  }

  /** Tokens with KV in the cache once the steps under way have ended. */
  get numComputedAhead(): number {
    return this.underWay.at(-1)?.end ?? this.numComputed;
  }

  /**
   * Whether a step may follow that starts from a token which only the device knows: not if choices part ways there, if
   * penalties look at it, or if it is the last one.
   */
  get canRunAhead(): boolean {
    const last = this.underWay.at(-1);
    if (!last || last.choices.length === 0) return true;
    return this.choices.length === 1 && this.history === null && this.numTokensAhead < this.maxNumTokens;
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
