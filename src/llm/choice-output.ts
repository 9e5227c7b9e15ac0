// One choice of a request: its tokens become text, and the first stop string in that text ends it.
import type { EngineOutput } from '../engine/protocol.ts';
import type { IncrementalDetokenizer } from '../tokenizer/incremental-detokenizer.ts';
import { StopStringMatcher, type StopResult } from '../tokenizer/stop-strings.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { OutputOptions } from './resolve.ts';

/** What of one step's output counts. */
export interface AcceptedOutput {
  readonly text: string;
  /** Tokens up to the one that completed a stop string. */
  readonly numTokens: number;
  readonly stopString: string | null;
}

export class ChoiceOutput {
  /** True once a stop string or the engine has ended it; what the engine still sends is dropped. */
  isFinished = false;
  readonly #includeStop: boolean;
  readonly #minTokens: number;
  readonly #detokenizer: IncrementalDetokenizer | null;
  readonly #matcher: StopStringMatcher | null;
  #numTokens = 0;

  /** Without a tokenizer text stays empty. */
  constructor(options: OutputOptions, tokenizer: Tokenizer | null) {
    const { skipSpecialTokens, stop } = options;
    this.#includeStop = options.includeStopStrInOutput;
    this.#minTokens = options.minTokens;
    this.#detokenizer = tokenizer?.createDetokenizer({ skipSpecialTokens }) ?? null;
    this.#matcher =
      stop.length > 0 ? new StopStringMatcher(stop, { includeStopString: this.#includeStop }) : null;
  }

  accept(output: EngineOutput): AcceptedOutput {
    let text = '';
    const { tokenIds, stopTokenId } = output;
    for (let i = 0; i < tokenIds.length; i++) {
      this.#numTokens++;
      // The token that ends the output is counted, but no part of the text.
      const isHidden = stopTokenId !== null && i === tokenIds.length - 1 && !this.#includeStop;
      if (isHidden || this.#detokenizer === null) continue;
      const { text: ready, stopString } = this.#match(this.#detokenizer.push(tokenIds[i]));
      text += ready;
      if (stopString !== null) return this.#stop(text, i + 1, stopString);
    }
    return output.finishReason === null
      ? { text, numTokens: tokenIds.length, stopString: null }
      : this.#finish(text, tokenIds.length);
  }

  /** The engine ended the choice: give out what was held back. */
  #finish(text: string, numTokens: number): AcceptedOutput {
    const { text: rest, stopString } = this.#match(this.#detokenizer?.flush() ?? '');
    if (stopString !== null) return this.#stop(text + rest, numTokens, stopString);
    this.isFinished = true;
    return { text: text + rest + (this.#matcher?.flush() ?? ''), numTokens, stopString: null };
  }

  #stop(text: string, numTokens: number, stopString: string): AcceptedOutput {
    this.isFinished = true;
    return { text, numTokens, stopString };
  }

  /** Stop strings are looked for behind the first `minTokens` tokens only. */
  #match(text: string): StopResult {
    const isFree = this.#matcher === null || this.#numTokens <= this.#minTokens;
    return isFree ? { text, stopString: null } : this.#matcher.push(text);
  }
}
