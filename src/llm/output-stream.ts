// From the engine's numbers to a caller's chunks: the one path that the library and the server share.
import type { EngineClient, EngineOutput, TokenLogprobs } from '../engine/protocol.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { NeedletailError } from '../util/errors.ts';
import { ChoiceOutput, type AcceptedOutput } from './choice-output.ts';
import type { GenerationChunk, TokenLogprob } from './chunk.ts';
import type { GenerationJob } from './resolve.ts';

/**
 * Runs a job. Yields one chunk for each output of the engine that a caller can make use of; leaving the loop early
 * cancels the request.
 * @throws NeedletailError where the request as a whole fails (queue full, deadline, abort, engine died).
 */
export async function* outputStream(
  engine: EngineClient,
  tokenizer: Tokenizer | null,
  job: GenerationJob,
  signal?: AbortSignal,
): AsyncGenerator<GenerationChunk, void, void> {
  const assembler = new ChunkAssembler(job, tokenizer);
  for await (const output of engine.generate(job.request, signal)) {
    const chunk = assembler.chunk(output);
    if (chunk === null) continue;
    if (typeof chunk.stopReason === 'string') engine.abort(job.request.requestId, chunk.index);
    yield chunk;
  }
}

class ChunkAssembler {
  readonly #job: GenerationJob;
  readonly #tokenizer: Tokenizer | null;
  readonly #choices: readonly ChoiceOutput[];
  readonly #hasBegun: boolean[];
  #promptLogprobs: EngineOutput['promptLogprobs'] = null;

  constructor(job: GenerationJob, tokenizer: Tokenizer | null) {
    const { n } = job.request.sampling;
    this.#job = job;
    this.#tokenizer = tokenizer;
    this.#choices = Array.from({ length: n }, () => new ChoiceOutput(job.output, tokenizer));
    this.#hasBegun = new Array<boolean>(n).fill(false);
  }

  /** null: nothing that a caller could use. */
  chunk(output: EngineOutput): GenerationChunk | null {
    const choice = this.#choices[output.index];
    if (choice.isFinished) return output.timing === null ? null : timingChunk(output);
    if (output.error !== null) throw new NeedletailError(output.error.code, output.error.message);
    if (output.finishReason === 'abort') throw new NeedletailError('aborted', 'the request was aborted');
    this.#promptLogprobs ??= output.promptLogprobs;
    const isFirst = !this.#hasBegun[output.index];
    this.#hasBegun[output.index] = true;
    return this.#build(output, choice.accept(output), isFirst);
  }

  #build(output: EngineOutput, accepted: AcceptedOutput, isFirst: boolean): GenerationChunk {
    const { tokenIds } = output;
    const { numTokens, stopString } = accepted;
    const ownStop = this.#job.output.stopTokenIds.includes(output.stopTokenId ?? -1)
      ? output.stopTokenId
      : null;
    return {
      index: output.index,
      text: isFirst ? (this.#job.output.echo ?? '') + accepted.text : accepted.text,
      tokenIds: numTokens === tokenIds.length ? tokenIds : tokenIds.slice(0, numTokens),
      logprobs: this.#logprobs(output, numTokens, isFirst),
      promptLogprobs: output.promptLogprobs === null ? null : this.#promptReport(),
      finishReason: stopString !== null ? 'stop' : (output.finishReason as GenerationChunk['finishReason']),
      stopReason: stopString ?? ownStop,
      numCachedTokens: output.numCachedTokens,
      timing: output.timing,
    };
  }

  #logprobs(output: EngineOutput, numTokens: number, isFirst: boolean): TokenLogprob[] | null {
    if (this.#job.request.sampling.logprobs === null) return null;
    const { echoLogprobs } = this.#job.output;
    const prompt = isFirst && echoLogprobs !== null ? this.#promptEntries(echoLogprobs) : [];
    return [...prompt, ...(output.logprobs ?? []).slice(0, numTokens).map((entry) => this.#entry(entry))];
  }

  #promptReport(): TokenLogprob[] | null {
    const { promptLogprobs } = this.#job.output;
    return promptLogprobs === null ? null : this.#promptEntries(promptLogprobs);
  }

  #promptEntries(numTop: number): TokenLogprob[] {
    const { promptTokenIds } = this.#job.request;
    return (this.#promptLogprobs ?? []).map((entry, i) =>
      entry === null ? this.#unpredicted(promptTokenIds[i]) : this.#entry(entry, numTop),
    );
  }

  #unpredicted(tokenId: number): TokenLogprob {
    return { tokenId, token: this.#tokenText(tokenId), logprob: null, rank: null, top: [] };
  }

  #entry({ tokenId, logprob, rank, top }: TokenLogprobs, numTop = top.length): TokenLogprob {
    return {
      tokenId,
      token: this.#tokenText(tokenId),
      logprob,
      rank,
      top: top.slice(0, numTop).map((other) => ({ ...other, token: this.#tokenText(other.tokenId) })),
    };
  }

  #tokenText(tokenId: number): string {
    return this.#tokenizer?.decode([tokenId], { skipSpecialTokens: false }) ?? '';
  }
}

/** What the engine says of a choice after a stop string ended it. */
function timingChunk(output: EngineOutput): GenerationChunk {
  return {
    index: output.index,
    text: '',
    tokenIds: [],
    logprobs: null,
    promptLogprobs: null,
    finishReason: null,
    stopReason: null,
    numCachedTokens: output.numCachedTokens,
    timing: output.timing,
  };
}
