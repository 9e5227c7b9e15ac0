// Responses of /v1/completions.
import type { GenerationChoice, GenerationChunk, GenerationResult, TokenLogprob } from '../llm/chunk.ts';
import type { GenerationJob } from '../llm/resolve.ts';
import type { LogprobsFormat } from './logprobs-format.ts';
import type { CompletionRequest } from './protocol.ts';
import {
  type Envelope,
  EventFrame,
  finishFields,
  isWorthAnEvent,
  type ResponseFormat,
} from './response-format.ts';
import type { UsageBody } from './usage.ts';

export class CompletionFormat implements ResponseFormat {
  readonly #envelope: Envelope;
  readonly #frame: EventFrame;
  readonly #logprobs: LogprobsFormat;
  readonly #jobs: readonly GenerationJob[];
  readonly #returnsTokenIds: boolean;
  /** Of each choice: characters of the tokens whose log-probabilities were sent. */
  readonly #textOffsets = new Map<number, number>();
  readonly #begun = new Set<number>();

  constructor(
    envelope: Envelope,
    request: CompletionRequest,
    jobs: readonly GenerationJob[],
    logprobs: LogprobsFormat,
  ) {
    this.#envelope = envelope;
    this.#frame = new EventFrame('text_completion', envelope, request.stream_options);
    this.#logprobs = logprobs;
    this.#jobs = jobs;
    this.#returnsTokenIds = request.return_token_ids === true;
  }

  events(prompt: number, chunk: GenerationChunk, usage: () => UsageBody): string {
    if (!isWorthAnEvent(chunk, this.#returnsTokenIds)) return '';
    const index = this.#choiceIndex(prompt, chunk.index);
    const ids = this.#returnsTokenIds ? this.#tokenIds(prompt, index, chunk) : '';
    const logprobs =
      chunk.logprobs === null ? 'null' : JSON.stringify(this.#nextLogprobs(index, chunk.logprobs));
    const text = JSON.stringify(chunk.text);
    return this.#frame.event(
      `{"index":${index},"text":${text}${ids},"logprobs":${logprobs}${finishFields(chunk)}`,
      usage,
    );
  }

  lastEvents(usage: UsageBody): string {
    return this.#frame.end(usage);
  }

  body(results: readonly GenerationResult[], usage: UsageBody): object {
    const choices = results.flatMap((result, prompt) =>
      result.choices.map((choice) => this.#choice(prompt, choice, result)),
    );
    const { id, created, model } = this.#envelope;
    return { id, object: 'text_completion', created, model, choices, usage };
  }

  #choice(
    prompt: number,
    choice: GenerationChoice,
    { promptTokenIds, promptLogprobs }: GenerationResult,
  ): object {
    return {
      index: this.#choiceIndex(prompt, choice.index),
      text: choice.text,
      logprobs: choice.logprobs && this.#logprobs.completion(choice.logprobs, 0),
      finish_reason: choice.finishReason,
      stop_reason: choice.stopReason,
      ...(promptLogprobs === null ? {} : { prompt_logprobs: this.#logprobs.prompt(promptLogprobs) }),
      ...(this.#returnsTokenIds
        ? { token_ids: choice.tokenIds, prompt_token_ids: Array.from(promptTokenIds) }
        : {}),
    };
  }

  /** The choices of a list of prompts are numbered through. */
  #choiceIndex(prompt: number, index: number): number {
    return prompt * this.#jobs[0].request.sampling.n + index;
  }

  /** The prompt's ids come with the first event of each choice. */
  #tokenIds(prompt: number, index: number, chunk: GenerationChunk): string {
    const ids = `,"token_ids":[${chunk.tokenIds.join()}]`;
    if (this.#begun.has(index)) return ids;
    this.#begun.add(index);
    return `${ids},"prompt_token_ids":[${this.#jobs[prompt].request.promptTokenIds.join()}]`;
  }

  #nextLogprobs(index: number, entries: readonly TokenLogprob[]): object {
    const offset = this.#textOffsets.get(index) ?? 0;
    const formatted = this.#logprobs.completion(entries, offset);
    this.#textOffsets.set(index, offset + this.#logprobs.textLength(entries));
    return formatted;
  }
}
