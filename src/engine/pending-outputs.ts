// What waits for the reader of one request: at most one output per choice, which grows until it is taken.
import type { EngineOutput, TokenLogprobs } from './protocol.ts';

type PendingOutput = { -readonly [Field in keyof EngineOutput]: EngineOutput[Field] } & {
  tokenIds: number[];
  logprobs: TokenLogprobs[] | null;
};

export class PendingOutputs {
  readonly #byChoice = new Map<number, PendingOutput>();

  get size(): number {
    return this.#byChoice.size;
  }

  /** The output belongs to this from here on. */
  push(output: EngineOutput): void {
    const pending = this.#byChoice.get(output.index);
    if (pending) extend(pending, output);
    else this.#byChoice.set(output.index, output as PendingOutput);
  }

  /** Yields one at a time, so that what comes meanwhile joins those that still wait. */
  *take(): Generator<EngineOutput, void, undefined> {
    for (const [index, output] of this.#byChoice) {
      this.#byChoice.delete(index);
      yield output;
    }
  }
}

function extend(pending: PendingOutput, later: EngineOutput): void {
  for (const tokenId of later.tokenIds) pending.tokenIds.push(tokenId);
  if (later.logprobs) (pending.logprobs ??= []).push(...later.logprobs);
  pending.promptLogprobs ??= later.promptLogprobs;
  pending.finishReason = later.finishReason;
  pending.stopTokenId = later.stopTokenId;
  pending.error = later.error;
  pending.numCachedTokens = later.numCachedTokens;
  pending.timing = later.timing;
}
