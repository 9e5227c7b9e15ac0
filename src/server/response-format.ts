// What the two endpoints' responses have in common: their envelope, as one body or as events.
import type { GenerationChunk, GenerationResult } from '../llm/chunk.ts';
import type { CommonRequest } from './protocol.ts';
import type { UsageBody } from './usage.ts';

/** Turns a generation into what an endpoint sends. */
export interface ResponseFormat {
  /** Events for what one step brought to a choice; empty if there is nothing to tell. */
  events(prompt: number, chunk: GenerationChunk, usage: () => UsageBody): string;
  /** What ends a stream. */
  lastEvents(usage: UsageBody): string;
  /** The response in one piece. */
  body(results: readonly GenerationResult[], usage: UsageBody): object;
}

export interface Envelope {
  readonly id: string;
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
}

/**
 * Puts choices into events. A stream has thousands of them that differ in a few characters, so the rest is written once.
 */
export class EventFrame {
  readonly #head: string;
  readonly #tail: string;
  readonly #includeUsage: boolean;
  readonly #isUsageContinuous: boolean;

  constructor(object: string, { id, created, model }: Envelope, options: CommonRequest['stream_options']) {
    const fields = JSON.stringify({ id, object, created, model });
    this.#includeUsage = options?.include_usage === true;
    this.#isUsageContinuous = this.#includeUsage && options?.continuous_usage_stats === true;
    this.#head = `data: ${fields.slice(0, -1)},"choices":[`;
    this.#tail = this.#includeUsage ? '],"usage":null}\n\n' : ']}\n\n';
  }

  /** @param choice a choice as JSON; @param extra further fields of the event as JSON, each with a comma before it */
  event(choice: string, usage: () => UsageBody, extra = ''): string {
    if (extra === '' && !this.#isUsageContinuous) return this.#head + choice + this.#tail;
    const counts = this.#isUsageContinuous ? JSON.stringify(usage()) : 'null';
    return `${this.#head}${choice}]${extra}${this.#includeUsage ? `,"usage":${counts}` : ''}}\n\n`;
  }

  end(usage: UsageBody): string {
    const last = this.#includeUsage ? `${this.#head}],"usage":${JSON.stringify(usage)}}\n\n` : '';
    return `${last}data: [DONE]\n\n`;
  }
}

/** The end of a choice as JSON fields; constant for all chunks but the last. */
export function finishFields({ finishReason, stopReason }: GenerationChunk): string {
  if (finishReason === null) return ',"finish_reason":null}';
  return `,"finish_reason":"${finishReason}","stop_reason":${JSON.stringify(stopReason)}}`;
}

/** Whether a chunk says anything to this client. */
export function isWorthAnEvent(chunk: GenerationChunk, returnsTokenIds: boolean): boolean {
  return (
    chunk.text !== '' ||
    chunk.finishReason !== null ||
    (chunk.logprobs !== null && chunk.logprobs.length > 0) ||
    (returnsTokenIds && chunk.tokenIds.length > 0)
  );
}
