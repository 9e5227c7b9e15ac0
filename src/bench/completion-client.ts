// One streamed completion over node:http, recorded as raw chunks and read after the run: the load generator shares its
// cores with the server, so it must cost little while the clock runs.
import http from 'node:http';
import https from 'node:https';
import type { RequestTimes } from './metrics.ts';
import { parseEvents, type Arrival } from './sse.ts';

export interface StreamRecord {
  readonly sentMs: number;
  /** 0 if there was no answer. */
  readonly status: number;
  readonly arrivals: readonly Arrival[];
  /** What the connection died of, or null. */
  readonly failure: string | null;
}

export class CompletionClient {
  readonly #url: URL;
  readonly #agent: http.Agent;
  readonly #headers: Record<string, string>;

  constructor(url: URL, apiKey: string | null) {
    this.#url = url;
    const options = { keepAlive: true, noDelay: true };
    this.#agent = url.protocol === 'https:' ? new https.Agent(options) : new http.Agent(options);
    this.#headers = {
      'content-type': 'application/json',
      ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
    };
  }

  /** Sends a request and resolves when its response has ended, well or badly; never rejects. */
  stream(body: Buffer): Promise<StreamRecord> {
    const { request } = this.#url.protocol === 'https:' ? https : http;
    return new Promise((resolve) => {
      const arrivals: Arrival[] = [];
      const sentMs = performance.now();
      let status = 0;
      const end = (failure: string | null) => resolve({ sentMs, status, arrivals, failure });
      const headers = { ...this.#headers, 'content-length': body.length };
      const outgoing = request(this.#url, { method: 'POST', agent: this.#agent, headers }, (response) => {
        status = response.statusCode ?? 0;
        response.on('data', (bytes: Buffer) => arrivals.push({ atMs: performance.now(), bytes }));
        response.on('end', () => end(null));
        response.on('error', (error) => end(error.message));
      });
      outgoing.on('error', (error) => end(error.message));
      outgoing.end(body);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** The fields of a chunk that count, of either endpoint. */
interface Chunk {
  readonly choices?: readonly {
    readonly text?: string;
    readonly token_ids?: readonly number[] | null;
    readonly delta?: { readonly content?: string | null };
  }[];
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
  readonly error?: { readonly message?: string };
}

/** A finished stream as times and counts, or what went wrong with it. */
export type Outcome = { readonly times: RequestTimes } | { readonly error: string };

/**
 * Reads a recorded stream. Tokens are timed by the ids that chunks carry (`return_token_ids`) and, where a server sends
 * none, by chunks with text; they are counted by `usage`, never by chunks.
 */
export function readOutcome(record: StreamRecord): Outcome {
  if (record.failure !== null) return { error: record.failure };
  if (record.status !== 200) return { error: `HTTP ${record.status}: ${bodyText(record).slice(0, 300)}` };
  try {
    return { times: readTimes(record) };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

function readTimes({ sentMs, arrivals }: StreamRecord): RequestTimes {
  const events = parseEvents(arrivals);
  if (events.at(-1)?.data !== '[DONE]') throw new Error('the stream ended before [DONE]');
  const tokenMs: number[] = [];
  let usage: Chunk['usage'] = null;
  for (const { atMs, data } of events.slice(0, -1)) {
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new Error(chunk.error.message ?? 'the server sent an error');
    for (let i = tokensOf(chunk); i > 0; i--) tokenMs.push(atMs);
    usage = chunk.usage ?? usage;
  }
  if (!usage) throw new Error('the server sent no usage: it must honour stream_options.include_usage');
  return { sentMs, tokenMs, inputTokens: usage.prompt_tokens, outputTokens: usage.completion_tokens };
}

function tokensOf(chunk: Chunk): number {
  let count = 0;
  for (const { token_ids, text, delta } of chunk.choices ?? [])
    count += token_ids ? token_ids.length : (text ?? delta?.content) ? 1 : 0;
  return count;
}

function bodyText(record: StreamRecord): string {
  return Buffer.concat(record.arrivals.map((arrival) => arrival.bytes)).toString('utf8');
}
