// Responses of /v1/chat/completions.
import type { GenerationChoice, GenerationChunk, GenerationResult } from '../llm/chunk.ts';
import type { GenerationJob } from '../llm/resolve.ts';
import type { LogprobsFormat } from './logprobs-format.ts';
import type { ChatRequest } from './protocol.ts';
import {
  type Envelope,
  EventFrame,
  finishFields,
  isWorthAnEvent,
  type ResponseFormat,
} from './response-format.ts';
import type { UsageBody } from './usage.ts';

export class ChatFormat implements ResponseFormat {
  readonly #envelope: Envelope;
  readonly #frame: EventFrame;
  readonly #logprobs: LogprobsFormat;
  readonly #job: GenerationJob;
  readonly #returnsTokenIds: boolean;
  /** What each answer begins with: the assistant's message that it continues, if it is to be echoed. */
  readonly #head: string;
  readonly #begun = new Set<number>();

  constructor(envelope: Envelope, request: ChatRequest, job: GenerationJob, logprobs: LogprobsFormat) {
    this.#envelope = envelope;
    this.#frame = new EventFrame('chat.completion.chunk', envelope, request.stream_options);
    this.#logprobs = logprobs;
    this.#job = job;
    this.#returnsTokenIds = request.return_token_ids === true;
    this.#head = echoOf(request);
  }

  events(_prompt: number, chunk: GenerationChunk, usage: () => UsageBody): string {
    if (!isWorthAnEvent(chunk, this.#returnsTokenIds)) return '';
    const opening = this.#begun.has(chunk.index) ? '' : this.#opening(chunk.index, usage);
    const ids = this.#returnsTokenIds ? `,"token_ids":[${chunk.tokenIds.join()}]` : '';
    const logprobs =
      chunk.logprobs === null ? 'null' : JSON.stringify({ content: this.#logprobs.chat(chunk.logprobs) });
    const delta = chunk.text === '' ? '{}' : `{"content":${JSON.stringify(chunk.text)}}`;
    const choice = `{"index":${chunk.index},"delta":${delta}${ids},"logprobs":${logprobs}${finishFields(chunk)}`;
    return opening + this.#frame.event(choice, usage);
  }

  lastEvents(usage: UsageBody): string {
    return this.#frame.end(usage);
  }

  body([result]: readonly GenerationResult[], usage: UsageBody): object {
    const { choices, promptTokenIds, promptLogprobs } = result;
    const { id, created, model } = this.#envelope;
    return {
      id,
      object: 'chat.completion',
      created,
      model,
      choices: choices.map((choice) => this.#choice(choice)),
      usage,
      ...(promptLogprobs === null ? {} : { prompt_logprobs: this.#logprobs.prompt(promptLogprobs) }),
      ...(this.#returnsTokenIds ? { prompt_token_ids: Array.from(promptTokenIds) } : {}),
    };
  }

  /** A choice's first event says who speaks; the request's first one brings the prompt's ids, if they are wanted. */
  #opening(index: number, usage: () => UsageBody): string {
    const isFirst = this.#begun.size === 0;
    this.#begun.add(index);
    const { promptTokenIds } = this.#job.request;
    const ids = this.#returnsTokenIds && isFirst ? `,"prompt_token_ids":[${promptTokenIds.join()}]` : '';
    const delta = JSON.stringify({ role: 'assistant', content: this.#head });
    return this.#frame.event(
      `{"index":${index},"delta":${delta},"logprobs":null,"finish_reason":null}`,
      usage,
      ids,
    );
  }

  #choice(choice: GenerationChoice): object {
    return {
      index: choice.index,
      message: { role: 'assistant', content: this.#head + choice.text, refusal: null },
      logprobs: choice.logprobs && { content: this.#logprobs.chat(choice.logprobs), refusal: null },
      finish_reason: choice.finishReason,
      stop_reason: choice.stopReason,
      ...(this.#returnsTokenIds ? { token_ids: choice.tokenIds } : {}),
    };
  }
}

function echoOf({ echo, messages }: ChatRequest): string {
  const last = messages.at(-1)!;
  return echo === true && last.role === 'assistant' ? last.content : '';
}
