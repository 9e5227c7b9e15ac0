import { describe, expect, test } from 'vitest';
import { BlockManager } from './block-manager.ts';
import { RequestState } from './request-state.ts';
import { GREEDY, type SamplingParams } from './sampling-params.ts';
import { Scheduler, type Schedule, type SchedulerConfig } from './scheduler.ts';
import { Sequence } from './sequence.ts';

const BLOCK_SIZE = 4;
const MAX_MODEL_LEN = 64;

const DEFAULTS: SchedulerConfig & { numBlocks: number } = {
  numBlocks: 32,
  batchingPolicy: 'max-utilization',
  preemptByPriority: false,
  maxNumSeqs: 4,
  maxNumBatchedTokens: 16,
  maxNumPromptRows: 8,
  maxNumQueuedReqs: 100,
};

/** A scheduler with a counter for a model. */
class Bench {
  readonly blocks: BlockManager;
  readonly scheduler: Scheduler;
  #numArrivals = 0;

  constructor(overrides: Partial<typeof DEFAULTS> = {}) {
    const { numBlocks, ...config } = { ...DEFAULTS, ...overrides };
    this.blocks = new BlockManager({
      blockSize: BLOCK_SIZE,
      groups: [{ numBlocks, window: null }],
      enablePrefixCaching: false,
      hashSeed: '',
    });
    this.scheduler = new Scheduler(config, this.blocks);
  }

  add(name: string, promptLength: number, sampling: Partial<SamplingParams> = {}, priority = 0): Sequence {
    const promptTokenIds = new Int32Array(promptLength).fill(7);
    const request = new RequestState(
      {
        requestId: name,
        promptTokenIds,
        sampling: { ...GREEDY, maxTokens: 100, ...sampling },
        priority,
        timeoutMs: null,
        cacheSalt: '',
      },
      this.#numArrivals++,
      0,
    );
    const blocks = this.blocks.open('');
    const sequence = new Sequence(request, promptTokenIds, { maxModelLen: MAX_MODEL_LEN, blocks });
    this.scheduler.add(sequence);
    return sequence;
  }

  /** Runs one step: whoever reached its last token draws one. Returns what was computed, as `name:tokens`. */
  step(): string[] {
    const schedule = this.scheduler.schedule();
    for (const part of schedule.sequences) this.#run(part);
    this.scheduler.checkIntegrity();
    return schedule.sequences.map(({ sequence, start, end }) => `${sequence.request.id}:${end - start}`);
  }

  #run(part: Schedule['sequences'][number]): void {
    const { sequence } = part;
    if (sequence.state === 'finished') return;
    this.scheduler.advance(part);
    for (const choice of part.choices.slice(1)) {
      sequence.choices = sequence.choices.filter((other) => other !== choice);
      this.scheduler.fork(sequence, choice).append(7);
    }
    if (part.choices.length > 0) sequence.append(7);
    if (sequence.numTokens >= sequence.maxNumTokens) this.scheduler.finish(sequence);
  }
}

describe('in-flight batching', () => {
  test('running sequences come first, prompts fill the rest of the token budget in chunks', () => {
    const bench = new Bench();
    bench.add('a', 5);
    bench.add('b', 30);
    expect(bench.step()).toEqual(['a:5', 'b:11']);
    bench.add('c', 6);
    expect(bench.step()).toEqual(['a:1', 'b:15']);
    expect(bench.step()).toEqual(['a:1', 'b:4', 'c:6']);
    expect(bench.step()).toEqual(['a:1', 'b:1', 'c:1']);
  });

  test('a finished sequence leaves at once and the next takes its seat', () => {
    const bench = new Bench({ maxNumSeqs: 2 });
    bench.add('a', 3, { maxTokens: 2 });
    bench.add('b', 3);
    bench.add('c', 3);
    expect(bench.step()).toEqual(['a:3', 'b:3']);
    expect(bench.step()).toEqual(['a:1', 'b:1']);
    expect(bench.step()).toEqual(['b:1', 'c:3']);
  });

  test('a long prompt is not starved by short requests that keep coming', () => {
    const bench = new Bench({ maxNumBatchedTokens: 4 });
    const long = bench.add('long', 50, { maxTokens: 1 });
    let numSteps = 0;
    for (; long.state !== 'finished'; numSteps++) {
      bench.add(`short ${numSteps}`, 2, { maxTokens: 8 });
      bench.step();
    }
    // With three others decoding it gets one token of four in every step at the least.
    expect(numSteps).toBeLessThanOrEqual(50);
  });

  test('choices of one request count as so many sequences', () => {
    const bench = new Bench();
    bench.add('a', 4, { n: 3 });
    bench.add('b', 4);
    bench.add('c', 4);
    expect(bench.step()).toEqual(['a:4', 'b:4']);
    expect(bench.step()).toEqual(['a:1', 'a:1', 'a:1', 'b:1']);
  });

  test('a prompt to be scored is cut at the limit of logit rows', () => {
    const bench = new Bench({ maxNumPromptRows: 6 });
    bench.add('a', 15, { promptLogprobs: 0 });
    bench.add('b', 3);
    const schedule = bench.scheduler.schedule();
    expect(schedule.sequences.map(({ start, end }) => [start, end])).toEqual([
      [0, 6],
      [0, 3],
    ]);
  });
});

describe('when blocks run out', () => {
  test('the youngest is preempted, waits at the head, and is computed anew', () => {
    const bench = new Bench({ numBlocks: 16 });
    bench.add('old', 12);
    bench.add('young', 4);
    bench.step();
    bench.add('waiting', 1, { maxTokens: 1 });
    const seen: string[] = [];
    for (let i = 0; i < 40 && bench.scheduler.numPreemptions === 0; i++) seen.push(...bench.step());
    expect(seen).toContain('waiting:1');
    expect(bench.scheduler.numPreemptions).toBe(1);
    bench.add('late', 4);
    let steps: string[] = [];
    while (!steps.some((part) => part.startsWith('young') && part !== 'young:1')) steps = bench.step();
    // Its prompt and its output go through prefill together, and the later arrival comes after it.
    expect(steps[0]).toBe('young:16');
  });

  test('guaranteed-no-evict admits only what can run to its end', () => {
    const bench = new Bench({ batchingPolicy: 'guaranteed-no-evict', numBlocks: 16 });
    bench.add('a', 8, { maxTokens: 32 }); // 10 blocks
    bench.add('b', 8, { maxTokens: 32 });
    bench.add('c', 8, { maxTokens: 4 }); // would fit, but waits for its turn
    for (let i = 0; i < 32; i++) expect(bench.step().join()).toMatch(/^a:\d+$/);
    expect(bench.step()).toEqual(['b:8', 'c:8']);
    while (bench.scheduler.hasWork) bench.step();
    expect(bench.scheduler.numPreemptions).toBe(0);
  });

  test('guaranteed-no-evict counts what forks will take apart', () => {
    const bench = new Bench({
      batchingPolicy: 'guaranteed-no-evict',
      numBlocks: 16,
      maxNumBatchedTokens: 64,
    });
    // Two choices of 6 + 10 tokens take 7 blocks: one that they share, and 3 each.
    bench.add('forks', 6, { n: 2, maxTokens: 10 });
    bench.step();
    // 10 blocks: one more than are to be had.
    bench.add('filler', 32, { maxTokens: 8 });
    while (bench.scheduler.hasWork) bench.step();
    expect(bench.scheduler.numPreemptions).toBe(0);
  });

  test('n choices that can never run together are refused', () => {
    const bench = new Bench({ numBlocks: 16, batchingPolicy: 'guaranteed-no-evict' });
    expect(() => bench.add('a', 4, { n: 2, maxTokens: 60 })).toThrow(/needs 31 KV blocks of 4 tokens/);
    expect(() => bench.add('b', 4, { n: 5, maxTokens: 1 })).toThrow(/at most 4 sequences/);
    expect(bench.scheduler.hasWork).toBe(false);
  });
});

describe('priority', () => {
  test('waiting requests go by priority, then arrival', () => {
    const bench = new Bench({ maxNumSeqs: 1 });
    bench.add('low', 2, { maxTokens: 1 }, 5);
    bench.add('high', 2, { maxTokens: 1 }, 1);
    bench.add('also high', 2, { maxTokens: 1 }, 1);
    expect([...bench.step(), ...bench.step(), ...bench.step()]).toEqual(['high:2', 'also high:2', 'low:2']);
  });

  test('a more urgent arrival takes the place of the least urgent that runs', () => {
    const bench = new Bench({ maxNumSeqs: 2, preemptByPriority: true });
    bench.add('medium', 2, {}, 2);
    bench.add('low', 2, {}, 3);
    bench.step();
    bench.add('as low', 2, {}, 3);
    expect(bench.step()).toEqual(['medium:1', 'low:1']);
    bench.add('high', 2, {}, 1);
    expect(bench.step()).toEqual(['medium:1', 'high:2']);
    expect(bench.step()).toEqual(['high:1', 'medium:1']);
  });
});

describe('static batching', () => {
  test('the next batch begins when the longest member has ended; finished rows still cost', () => {
    const bench = new Bench({ batchingPolicy: 'static', maxNumSeqs: 2 });
    bench.add('a', 3, { maxTokens: 1 });
    bench.add('b', 3, { maxTokens: 3 });
    bench.add('c', 3, { maxTokens: 1 });
    expect(bench.step()).toEqual(['a:3', 'b:3']);
    expect(bench.step()).toEqual(['a:1', 'b:1']);
    expect(bench.step()).toEqual(['a:1', 'b:1']);
    expect(bench.step()).toEqual(['c:3']);
    bench.step();
    expect(bench.blocks.numFree).toBe(DEFAULTS.numBlocks);
  });

  test('static-drop-finished keeps the batch but not its finished rows', () => {
    const bench = new Bench({ batchingPolicy: 'static-drop-finished', maxNumSeqs: 2 });
    bench.add('a', 3, { maxTokens: 1 });
    bench.add('b', 3, { maxTokens: 3 });
    bench.add('c', 3, { maxTokens: 1 });
    expect([bench.step(), bench.step(), bench.step(), bench.step()]).toEqual([
      ['a:3', 'b:3'],
      ['b:1'],
      ['b:1'],
      ['c:3'],
    ]);
  });

  test('a batch is filled at once, even beyond the token budget of a step', () => {
    const bench = new Bench({ batchingPolicy: 'static', maxNumSeqs: 3, maxNumBatchedTokens: 8 });
    for (const name of ['a', 'b', 'c', 'd']) bench.add(name, 6, { maxTokens: 4 });
    expect(bench.step()).toEqual(['a:6', 'b:2']);
    expect(bench.step()).toEqual(['a:1', 'b:4', 'c:3']);
    expect(bench.step()).toEqual(['a:1', 'b:1', 'c:3']);
    expect(bench.scheduler.numWaiting).toBe(1);
  });
});

test('the queue is bounded', () => {
  const bench = new Bench({ maxNumQueuedReqs: 2 });
  bench.add('a', 2);
  bench.add('b', 2);
  expect(() => bench.add('c', 2)).toThrow(expect.objectContaining({ code: 'queue_full' }));
  bench.step();
  bench.add('d', 2);
});

test('a budget below one token per sequence is refused', () => {
  expect(() => new Bench({ maxNumSeqs: 8, maxNumBatchedTokens: 7 })).toThrow(/max-num-batched-tokens/);
});
