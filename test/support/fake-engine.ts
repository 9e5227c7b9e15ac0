// An engine without a model, for tests of what stands before it: tokens come from a script, one step per turn of the
// event loop, and everything asked of it is recorded.
import type {
  EngineClient,
  EngineInfo,
  EngineOutput,
  EngineRequest,
  EngineStats,
  TokenLogprobs,
} from '../../src/engine/protocol.ts';
import { NeedletailError, type ErrorCode } from '../../src/util/errors.ts';

export type Script = (request: EngineRequest, choice: number, position: number) => number;

export interface FakeEngineOptions {
  readonly vocabSize?: number;
  readonly maxModelLen?: number;
  /** The token at an output position. Default: the prompt's tokens over and over, shifted by choice and seed. */
  readonly script?: Script;
  readonly maxNumQueuedReqs?: number;
  readonly numCachedTokens?: number;
  /** Steps happen only when the test calls `step()`. */
  readonly isManual?: boolean;
}

interface Running {
  readonly request: EngineRequest;
  readonly queue: OutputQueue;
  readonly open: Set<number>;
  numTokens: number;
}

export class FakeEngine implements EngineClient {
  readonly info: EngineInfo;
  readonly requests: EngineRequest[] = [];
  /** Every abort, by request id and choice (null: the whole request). */
  readonly aborts: { requestId: string; index: number | null }[] = [];
  isAlive = true;
  isClosed = false;
  readonly #options: FakeEngineOptions;
  readonly #running = new Map<string, Running>();
  readonly #listeners = new Set<(stats: EngineStats) => void>();
  #isStepScheduled = false;
  #numSteps = 0;
  #promptTokens = 0;
  #generatedTokens = 0;

  constructor(options: FakeEngineOptions = {}) {
    this.#options = options;
    this.info = {
      maxModelLen: options.maxModelLen ?? 1024,
      vocabSize: options.vocabSize ?? 6144,
      maxNumSeqs: 64,
      maxNumBatchedTokens: 512,
      blockSize: 16,
      numBlocks: 1000,
      device: 'fake',
      recipe: 'float32',
      quality: null,
      shortenedFrom: null,
    };
  }

  get numRunning(): number {
    return this.#running.size;
  }

  async *generate(request: EngineRequest, signal?: AbortSignal): AsyncGenerator<EngineOutput, void, void> {
    const running = this.#admit(request);
    const onAbort = () => this.abort(request.requestId);
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    try {
      yield* running.queue;
    } finally {
      signal?.removeEventListener('abort', onAbort);
      if (this.#running.has(request.requestId)) this.abort(request.requestId);
    }
  }

  abort(requestId: string, index?: number): void {
    const running = this.#running.get(requestId);
    if (running === undefined) return;
    this.aborts.push({ requestId, index: index ?? null });
    for (const choice of index === undefined ? [...running.open] : [index]) {
      if (running.open.has(choice)) this.#emit(running, choice, [], { finishReason: 'abort' });
    }
  }

  /** Fails every request in flight, as a death of the engine's process does. */
  fail(code: ErrorCode, message: string): void {
    for (const running of this.#running.values()) running.queue.fail(new NeedletailError(code, message));
    this.#running.clear();
  }

  /** One token for every running choice. */
  step(): void {
    this.#numSteps++;
    for (const running of [...this.#running.values()]) this.#advance(running);
    for (const listener of this.#listeners) listener(this.stats());
  }

  stats(): EngineStats {
    const numUsed = this.#running.size;
    return {
      numRunning: this.#running.size,
      numWaiting: 0,
      numBlocks: this.info.numBlocks,
      numFreeBlocks: this.info.numBlocks - numUsed,
      blockSize: this.info.blockSize,
      numSteps: this.#numSteps,
      numPreemptions: 0,
      promptTokens: this.#promptTokens,
      generatedTokens: this.#generatedTokens,
      prefixCacheQueries: this.#promptTokens,
      prefixCacheHits: 0,
      lastStepTokens: this.#running.size,
    };
  }

  async isHealthy(): Promise<boolean> {
    return this.isAlive;
  }

  onStats(listener: (stats: EngineStats) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.fail('shutting_down', 'the engine is shutting down');
  }

  #admit(request: EngineRequest): Running {
    if (this.#running.size >= (this.#options.maxNumQueuedReqs ?? Infinity)) {
      throw new NeedletailError('queue_full', 'the queue is full');
    }
    const open = new Set(Array.from({ length: request.sampling.n }, (_, choice) => choice));
    const running = { request, queue: new OutputQueue(), open, numTokens: 0 };
    this.requests.push(request);
    this.#running.set(request.requestId, running);
    this.#promptTokens += request.promptTokenIds.length;
    this.#scheduleStep();
    return running;
  }

  #scheduleStep(): void {
    if (this.#isStepScheduled || this.#options.isManual === true) return;
    this.#isStepScheduled = true;
    setImmediate(() => {
      this.#isStepScheduled = false;
      this.step();
      if (this.#running.size > 0) this.#scheduleStep();
    });
  }

  #advance(running: Running): void {
    const { maxTokens, stopTokenIds } = running.request.sampling;
    const position = running.numTokens++;
    for (const choice of [...running.open]) {
      if (maxTokens === 0) {
        this.#emit(running, choice, [], { finishReason: 'length', isFirst: true });
        continue;
      }
      const tokenId = this.#token(running.request, choice, position);
      const isStop = stopTokenIds.includes(tokenId);
      this.#generatedTokens++;
      this.#emit(running, choice, [tokenId], {
        finishReason: isStop ? 'stop' : position + 1 >= maxTokens ? 'length' : null,
        stopTokenId: isStop ? tokenId : null,
        isFirst: position === 0,
      });
    }
  }

  #token(request: EngineRequest, choice: number, position: number): number {
    if (this.#options.script) return this.#options.script(request, choice, position);
    const { promptTokenIds } = request;
    return promptTokenIds[(position + choice) % promptTokenIds.length];
  }

  #emit(
    running: Running,
    index: number,
    tokenIds: number[],
    end: { finishReason: EngineOutput['finishReason']; stopTokenId?: number | null; isFirst?: boolean },
  ): void {
    const { sampling, requestId, promptTokenIds } = running.request;
    const wantsPrompt = end.isFirst === true && index === 0 && sampling.promptLogprobs !== null;
    running.queue.push({
      requestId,
      index,
      tokenIds,
      logprobs:
        sampling.logprobs === null ? null : tokenIds.map((id) => fakeLogprobs(id, sampling.logprobs!)),
      promptLogprobs: wantsPrompt
        ? Array.from(promptTokenIds, (id, i) => (i === 0 ? null : fakeLogprobs(id, sampling.promptLogprobs!)))
        : null,
      finishReason: end.finishReason,
      stopTokenId: end.stopTokenId ?? null,
      error: null,
      numCachedTokens: this.#options.numCachedTokens ?? 0,
      timing:
        end.finishReason === null ? null : { queuedMs: 1, prefillMs: 2, decodeMs: 3, numPreemptions: 0 },
    });
    if (end.finishReason === null) return;
    running.open.delete(index);
    if (running.open.size === 0) {
      running.queue.end();
      this.#running.delete(requestId);
    }
  }
}

/** Token t has log-probability −1 and rank 2; the most likely are t + 1 with −0.5, t itself, t + 2 with −1.5, … */
function fakeLogprobs(tokenId: number, numTop: number): TokenLogprobs {
  const ids = [tokenId + 1, tokenId, ...Array.from({ length: 20 }, (_, i) => tokenId + 2 + i)];
  const top = ids.slice(0, numTop).map((id, i) => ({ tokenId: id % 6144, logprob: -0.5 * (i + 1) }));
  return { tokenId, logprob: -1, rank: 2, top };
}

class OutputQueue implements AsyncIterable<EngineOutput> {
  readonly #outputs: EngineOutput[] = [];
  #error: Error | null = null;
  #isEnded = false;
  #wake: () => void = () => {};

  push(output: EngineOutput): void {
    this.#outputs.push(output);
    this.#wake();
  }

  end(): void {
    this.#isEnded = true;
    this.#wake();
  }

  fail(error: Error): void {
    this.#error = error;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<EngineOutput, void, void> {
    for (;;) {
      const output = this.#outputs.shift();
      if (output !== undefined) yield output;
      else if (this.#error !== null) throw this.#error;
      else if (this.#isEnded) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
