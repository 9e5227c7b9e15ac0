// Whatever the schedule (chunks, batches, preemption, reuse, forks, aborts), a request gets the tokens it would get alone.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { collect, createToyEngine, toyRequest, type Collection } from '../../test/support/toy-engine.ts';
import { toyGenerate } from '../../test/support/toy-executable.ts';
import type { SamplingParams } from './sampling-params.ts';

const MAX_MODEL_LEN = 40;

interface Job {
  readonly prompt: readonly number[];
  readonly sampling: Partial<SamplingParams>;
  readonly arrivalStep: number;
  readonly abort: { readonly atStep: number; readonly index: number | undefined } | null;
  readonly priority: number;
  readonly cacheSalt: string;
}

const sampling = fc.record({
  maxTokens: fc.integer({ min: 0, max: 24 }),
  n: fc.constantFrom(1, 1, 1, 2, 3),
  temperature: fc.constantFrom(0, 1),
  seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  stopTokenIds: fc.uniqueArray(fc.integer({ min: 0, max: 96 }), { maxLength: 8 }),
  presencePenalty: fc.constantFrom(0, 0, 1),
  repetitionPenalty: fc.constantFrom(1, 1, 1.5),
  minTokens: fc.constantFrom(0, 0, 4),
  logprobs: fc.constantFrom(null, 2),
  promptLogprobs: fc.constantFrom(null, null, 1),
});

/** Prompts that begin alike, so that blocks are shared, and end as they like. */
const prompt = fc
  .record({
    shared: fc.integer({ min: 0, max: 20 }),
    family: fc.integer({ min: 0, max: 2 }),
    tail: fc.array(fc.integer({ min: 0, max: 96 }), { minLength: 1, maxLength: 12 }),
  })
  .map(({ shared, family, tail }) => [...Array.from({ length: shared }, (_, i) => family * 30 + i), ...tail]);

const job: fc.Arbitrary<Job> = fc.record({
  prompt,
  sampling: sampling.map((params) => ({
    ...params,
    minTokens: Math.min(params.minTokens, params.maxTokens),
  })),
  arrivalStep: fc.integer({ min: 0, max: 12 }),
  abort: fc.option(
    fc.record({ atStep: fc.integer({ min: 0, max: 30 }), index: fc.constantFrom(undefined, 0, 1) }),
    { freq: 4 },
  ),
  priority: fc.integer({ min: 0, max: 2 }),
  cacheSalt: fc.constantFrom('', '', 'tenant'),
});

const engineOptions = fc
  .record({
    blockSize: fc.constantFrom(1, 3, 4, 8),
    spareBlocks: fc.integer({ min: 0, max: 12 }),
    maxNumSeqs: fc.integer({ min: 3, max: 6 }),
    spareTokens: fc.integer({ min: 0, max: 20 }),
    maxNumPromptRows: fc.integer({ min: 1, max: 6 }),
    windows: fc.constantFrom<readonly (number | null)[]>([null], [6], [null, 5], [5, null, 9]),
    enablePrefixCaching: fc.boolean(),
    batchingPolicy: fc.constantFrom(
      'max-utilization',
      'max-utilization',
      'guaranteed-no-evict',
      'static',
      'static-drop-finished',
    ),
    schedulingPolicy: fc.constantFrom('fcfs', 'priority'),
    maxStepsInFlight: fc.constantFrom(1, 2),
  })
  .map(({ spareBlocks, spareTokens, ...options }) => ({
    ...options,
    maxModelLen: MAX_MODEL_LEN,
    numBlocks: Math.ceil(MAX_MODEL_LEN / options.blockSize) + spareBlocks,
    maxNumBatchedTokens: options.maxNumSeqs + spareTokens,
  }));

test('tokens do not depend on the schedule, and no block is lost', async () => {
  let numPreemptions = 0;
  let numHits = 0;
  let numTakenOver = 0;
  await fc.assert(
    fc.asyncProperty(engineOptions, fc.array(job, { minLength: 1, maxLength: 12 }), async (options, jobs) => {
      const { engine, executable } = createToyEngine(options);
      const collected: Collection = new Map();
      const refused = new Set<number>();
      for (let step = 0; step <= 30 || engine.hasWork; step++) {
        jobs.forEach((entry, id) => {
          if (entry.arrivalStep === step && !tryAdd(engine, entry, id)) refused.add(id);
          if (entry.abort?.atStep === step) engine.abort(String(id), entry.abort.index);
        });
        collect(await engine.step(), collected);
        engine.checkIntegrity();
      }
      jobs.forEach((entry, id) => !refused.has(id) && expectTokens(collected, entry, id, options.windows));
      const { numFreeBlocks, numBlocks, numPreemptions: preempted, prefixCacheHits } = engine.stats();
      expect(numFreeBlocks).toBe(numBlocks);
      if (options.batchingPolicy !== 'max-utilization') expect(preempted).toBe(0);
      if (!options.enablePrefixCaching) expect(prefixCacheHits).toBe(0);
      numPreemptions += preempted;
      numHits += prefixCacheHits;
      numTakenOver += executable.numTakenOver;
    }),
    { numRuns: 400 },
  );
  // The generator is worth something only if it reaches the corners.
  expect(numPreemptions).toBeGreaterThan(30);
  expect(numHits).toBeGreaterThan(300);
  expect(numTakenOver).toBeGreaterThan(3000);
});

function tryAdd(engine: ReturnType<typeof createToyEngine>['engine'], entry: Job, id: number): boolean {
  const { priority, cacheSalt } = entry;
  try {
    engine.add(toyRequest(String(id), entry.prompt, entry.sampling, { priority, cacheSalt }));
    return true;
  } catch (error) {
    // Several choices that could never run together are refused; nothing else may be.
    expect(error).toMatchObject({ code: 'invalid_request', param: 'n' });
    return false;
  }
}

function expectTokens(
  collected: Collection,
  { prompt, sampling, abort }: Job,
  id: number,
  windows: readonly (number | null)[],
): void {
  for (let choice = 0; choice < sampling.n!; choice++) {
    const { tokenIds, last, outputs } = collected.get(`${id}/${choice}`)!;
    const expected = toyGenerate(prompt, sampling, { choice, maxModelLen: MAX_MODEL_LEN, windows });
    if (last.finishReason === 'abort') {
      expect(abort).not.toBeNull();
      expect(tokenIds).toEqual(expected.slice(0, tokenIds.length));
      continue;
    }
    expect(tokenIds).toEqual(expected);
    const isStopped = expected.length > 0 && sampling.stopTokenIds!.includes(expected.at(-1)!);
    expect(last.finishReason).toBe(isStopped ? 'stop' : 'length');
    if (sampling.promptLogprobs !== null && choice === 0)
      expect(outputs[0].promptLogprobs).toHaveLength(prompt.length);
  }
}
