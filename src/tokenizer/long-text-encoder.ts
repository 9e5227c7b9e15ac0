// Encodes long texts in a worker thread, so that no request holds up the event loop, within bounds of time and memory.
import type { Worker } from 'node:worker_threads';
import { NeedletailError } from '../util/errors.ts';
import { startWorker } from '../util/worker.ts';
import type { TextForm } from './prompt-encoder.ts';

export interface EncodeLimits {
  /** Texts longer than this (in UTF-16 code units) are refused. */
  readonly maxTextLength: number;
  /** Texts longer than this go to the worker. About 4k tokens of English; they take some 25 ms. */
  readonly longTextLength: number;
  /** The same for tokenizers that do not split a text into words. */
  readonly longUnsplitLength: number;
  /** So do texts with longer runs without white space: one long word costs more than many short ones. */
  readonly longWordLength: number;
  /** Time that the worker may take for a text, with an allowance for its length; Infinity: any. */
  readonly maxEncodeMs: number;
  readonly maxEncodeMsPerKilochar: number;
}

export const DEFAULT_ENCODE_LIMITS: EncodeLimits = {
  maxTextLength: 8 * 2 ** 20,
  longTextLength: 16_384,
  longUnsplitLength: 4096,
  longWordLength: 1024,
  maxEncodeMs: 10_000,
  maxEncodeMsPerKilochar: 10,
};

const WORKER_MEMORY_MB = 2048;

export interface EncodeRequest {
  readonly text: string;
  readonly form: TextForm;
}

/** What the worker answers: ids, or why there are none. */
export type EncodeReply =
  | { readonly tokenIds: Int32Array }
  | { readonly error: { readonly code: NeedletailError['code']; readonly message: string } };

interface Job {
  readonly request: EncodeRequest;
  readonly resolve: (tokenIds: Int32Array) => void;
  readonly reject: (error: Error) => void;
}

/** One worker, started with the first long text; jobs run one after the other. */
export class LongTextEncoder {
  readonly #directory: string;
  readonly #limits: EncodeLimits;
  readonly #jobs: Job[] = [];
  #worker: Worker | null = null;
  #timer: NodeJS.Timeout | null = null;

  /** @param directory folder of the tokenizer's files, which the worker reads itself */
  constructor(directory: string, limits: EncodeLimits) {
    this.#directory = directory;
    this.#limits = limits;
  }

  /** @throws NeedletailError `invalid_request` if the text takes too long or too much memory. */
  encode(request: EncodeRequest): Promise<Int32Array> {
    return new Promise((resolve, reject) => {
      this.#jobs.push({ request, resolve, reject });
      if (this.#jobs.length === 1) this.#runNext();
    });
  }

  async close(): Promise<void> {
    for (const job of this.#jobs.splice(0)) {
      job.reject(new NeedletailError('shutting_down', 'the tokenizer was closed'));
    }
    this.#stopTimer();
    await this.#stopWorker();
  }

  #runNext(): void {
    const job = this.#jobs[0];
    this.#worker?.[job ? 'ref' : 'unref']();
    if (!job) return;
    this.#worker ??= this.#start();
    this.#worker.postMessage(job.request);
    const { maxEncodeMs, maxEncodeMsPerKilochar } = this.#limits;
    const timeoutMs = maxEncodeMs + (maxEncodeMsPerKilochar * job.request.text.length) / 1000;
    // A timer takes Infinity for a millisecond.
    if (timeoutMs < Infinity)
      this.#timer = setTimeout(() => this.#fail(tooSlow(job.request.text)), timeoutMs);
  }

  #start(): Worker {
    const worker = startWorker(import.meta.url, './encode-worker', {
      workerData: { directory: this.#directory },
      resourceLimits: { maxOldGenerationSizeMb: WORKER_MEMORY_MB },
    });
    worker.on('message', (reply: EncodeReply) => this.#finish(reply));
    worker.on('error', (error) => worker === this.#worker && this.#fail(workerFailed(error)));
    return worker;
  }

  #finish(reply: EncodeReply): void {
    this.#stopTimer();
    const job = this.#jobs.shift();
    if ('error' in reply) job?.reject(new NeedletailError(reply.error.code, reply.error.message));
    else job?.resolve(reply.tokenIds);
    this.#runNext();
  }

  /** The worker cannot be interrupted, so it ends; the next job starts another. */
  #fail(error: NeedletailError): void {
    this.#stopTimer();
    void this.#stopWorker();
    this.#jobs.shift()?.reject(error);
    this.#runNext();
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #stopWorker(): Promise<void> {
    const worker = this.#worker;
    this.#worker = null;
    worker?.removeAllListeners('message');
    await worker?.terminate();
  }
}

/** The text should not be encoded on the event loop. */
export function isLongText(text: string, limits: EncodeLimits): boolean {
  return text.length > limits.longTextLength || hasLongWord(text, limits.longWordLength);
}

function hasLongWord(text: string, maxLength: number): boolean {
  const whiteSpace = /\s/g;
  for (let start = 0; text.length - start > maxLength; start = whiteSpace.lastIndex) {
    whiteSpace.lastIndex = start;
    const end = whiteSpace.exec(text)?.index ?? text.length;
    if (end - start > maxLength) return true;
  }
  return false;
}

function tooSlow(text: string): NeedletailError {
  const message = `tokenizing the prompt (${text.length} characters) took too long; it may hold one very long word`;
  return new NeedletailError('invalid_request', `${message}: split it or shorten it`, { param: 'prompt' });
}

function workerFailed(error: unknown): NeedletailError {
  const reason = error instanceof Error ? error.message : String(error);
  const message = `the prompt could not be tokenized (${reason}); shorten it`;
  return new NeedletailError('invalid_request', message, { param: 'prompt', cause: error });
}
