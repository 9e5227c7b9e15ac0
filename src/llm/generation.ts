// A generation that is asked for: iterate over it to stream, or collect it.
import type { GenerationChunk, GenerationResult } from './chunk.ts';
import { ResultCollector } from './collect.ts';
import type { GenerationJob } from './resolve.ts';

/** Nothing runs until it is iterated over or collected; each of them runs the request anew. */
export class Generation implements AsyncIterable<GenerationChunk> {
  readonly #prepare: () => Promise<GenerationJob>;
  readonly #run: (job: GenerationJob) => AsyncGenerator<GenerationChunk, void, void>;

  constructor(
    prepare: () => Promise<GenerationJob>,
    run: (job: GenerationJob) => AsyncGenerator<GenerationChunk, void, void>,
  ) {
    this.#prepare = prepare;
    this.#run = run;
  }

  /** Chunks as they come; leaving the loop cancels the request. */
  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationChunk, void, void> {
    yield* this.#run(await this.#prepare());
  }

  /** The whole result. */
  async collect(): Promise<GenerationResult> {
    const job = await this.#prepare();
    const collector = new ResultCollector(job.request.promptTokenIds, job.request.sampling.n);
    for await (const chunk of this.#run(job)) collector.add(chunk);
    return collector.result();
  }
}
