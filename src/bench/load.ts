// A load run against any server that speaks OpenAI's completions: arrivals by rate, by concurrency, or all at once.
import { NeedletailError } from '../util/errors.ts';
import { CompletionClient, readOutcome, type StreamRecord } from './completion-client.ts';
import type { RequestTimes } from './metrics.ts';
import { Random } from './random.ts';
import type { BenchRequest } from './workload.ts';

export interface LoadOptions {
  /** Such as `http://127.0.0.1:8000`. */
  readonly baseUrl: string;
  readonly endpoint: '/v1/completions' | '/v1/chat/completions';
  /** As the server names it; null: the first of its `/v1/models`. */
  readonly model: string | null;
  readonly apiKey: string | null;
  /** Requests per second of a Poisson process; Infinity: all at once. */
  readonly requestRate: number;
  /** Requests in flight at most; null: any number. */
  readonly maxConcurrency: number | null;
  readonly seed: number;
  readonly onProgress?: (finished: number, total: number) => void;
}

export interface LoadResult {
  readonly model: string;
  /** Whether the server sends token ids, so that tokens and not chunks are timed. */
  readonly hasTokenIds: boolean;
  readonly requests: readonly RequestTimes[];
  /** One message per failed request. */
  readonly errors: readonly string[];
}

/** Runs the load after one warm-up request, which does not count. Throws if that one fails. */
export async function runLoad(requests: readonly BenchRequest[], options: LoadOptions): Promise<LoadResult> {
  const model = options.model ?? (await firstModel(options));
  const client = new CompletionClient(new URL(options.endpoint, options.baseUrl), options.apiKey);
  try {
    const hasTokenIds = await probe(client, requestBody(requests[0], model, options), options.endpoint);
    const bodies = requests.map((request) => toBuffer(requestBody(request, model, options), hasTokenIds));
    const records = await sendAll(client, bodies, options);
    const outcomes = records.map(readOutcome);
    return {
      model,
      hasTokenIds,
      requests: outcomes.flatMap((outcome) => ('times' in outcome ? [outcome.times] : [])),
      errors: outcomes.flatMap((outcome) => ('error' in outcome ? [outcome.error] : [])),
    };
  } finally {
    client.close();
  }
}

async function firstModel({ baseUrl, apiKey }: LoadOptions): Promise<string> {
  const url = new URL('/v1/models', baseUrl);
  const response = await fetch(
    url,
    apiKey === null ? {} : { headers: { authorization: `Bearer ${apiKey}` } },
  ).catch((cause: unknown) => {
    throw new NeedletailError(
      'invalid_request',
      `nothing answers at ${url.href}; start a server first or say --base-url`,
      {
        cause,
      },
    );
  });
  if (!response.ok)
    throw new NeedletailError(
      'invalid_request',
      `${url.href} answers ${response.status}; say --model (and --api-key)`,
    );
  const { data } = (await response.json()) as { data: { id: string }[] };
  if (!data[0]) throw new NeedletailError('invalid_request', `${url.href} lists no model; say --model`);
  return data[0].id;
}

type Body = Readonly<Record<string, unknown>>;

function requestBody(
  { promptTokenIds, outputTokens }: BenchRequest,
  model: string,
  { endpoint }: LoadOptions,
): Body {
  const common = { model, max_tokens: outputTokens, temperature: 0, ignore_eos: true, stream: true };
  if (endpoint === '/v1/completions') return { ...common, prompt: [...promptTokenIds] };
  return { ...common, messages: [{ role: 'user', content: wordsOf(promptTokenIds) }] };
}

const WORDS = ['time', 'river', 'stone', 'light', 'garden', 'winter', 'house', 'road', 'music', 'water'];

/** About one token per word in common vocabularies; what it really is, the server's usage says. */
function wordsOf(ids: Int32Array): string {
  return Array.from(ids, (id) => WORDS[id % WORDS.length]).join(' ');
}

function toBuffer(body: Body, withTokenIds: boolean): Buffer {
  const options = {
    stream_options: { include_usage: true },
    ...(withTokenIds ? { return_token_ids: true } : {}),
  };
  return Buffer.from(JSON.stringify({ ...body, ...options }));
}

/** One request that warms the server up and finds out whether it knows `return_token_ids`. */
async function probe(client: CompletionClient, body: Body, endpoint: string): Promise<boolean> {
  const short = { ...body, max_tokens: Math.min(Number(body['max_tokens']), 16) };
  const withIds = await client.stream(toBuffer(short, true));
  if ('times' in readOutcome(withIds))
    return /"token_ids":\s*\[/.test(Buffer.concat(withIds.arrivals.map((a) => a.bytes)).toString());
  const without = readOutcome(await client.stream(toBuffer(short, false)));
  if ('error' in without)
    throw new NeedletailError('invalid_request', `the first request to ${endpoint} failed: ${without.error}`);
  return false;
}

async function sendAll(
  client: CompletionClient,
  bodies: readonly Buffer[],
  options: LoadOptions,
): Promise<StreamRecord[]> {
  const records: StreamRecord[] = [];
  const slots = new Slots(options.maxConcurrency ?? Infinity);
  const random = new Random(options.seed ^ 0xa991);
  const startMs = performance.now();
  let dueMs = 0;
  let finished = 0;
  await Promise.all(
    bodies.map(async (body, i) => {
      if (options.requestRate !== Infinity)
        await sleep(startMs + (dueMs += random.exponential(options.requestRate / 1000)) - performance.now());
      await slots.take();
      records[i] = await client.stream(body);
      slots.free();
      options.onProgress?.(++finished, bodies.length);
    }),
  );
  return records;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}

/** A counting semaphore: first come, first served. */
class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  take(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return Promise.resolve();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  free(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }
}
