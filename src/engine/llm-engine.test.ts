import { describe, expect, test } from 'vitest';
import {
  collect,
  createToyEngine,
  runToEnd,
  toyRequest,
  type Collection,
} from '../../test/support/toy-engine.ts';
import { toyGenerate, toyPromptLogprob, type Mishap } from '../../test/support/toy-executable.ts';
import type { EngineRequest } from './protocol.ts';
import type { SamplingParams } from './sampling-params.ts';

const PROMPT = [11, 12, 13, 14, 15, 16, 17];
const alone = (sampling: Partial<SamplingParams>, choice = 0) =>
  toyGenerate(PROMPT, sampling, { choice, maxModelLen: 64 });

async function run(...requests: EngineRequest[]): Promise<Collection> {
  const { engine } = createToyEngine();
  for (const request of requests) engine.add(request);
  return runToEnd(engine);
}

describe('ends', () => {
  test('at maxTokens', async () => {
    const { tokenIds, last } = (await run(toyRequest('a', PROMPT, { maxTokens: 5 }))).get('a/0')!;
    expect(tokenIds).toEqual(alone({ maxTokens: 5 }));
    expect(last).toMatchObject({ finishReason: 'length', stopTokenId: null, error: null });
  });

  test('at a stop token, which it names and hands out', async () => {
    const stop = alone({ maxTokens: 10 })[3];
    const collected = await run(toyRequest('a', PROMPT, { maxTokens: 10, stopTokenIds: [96, stop] }));
    const { tokenIds, last } = collected.get('a/0')!;
    expect(tokenIds).toEqual(alone({ maxTokens: 10 }).slice(0, 4));
    expect(last).toMatchObject({ finishReason: 'stop', stopTokenId: stop });
  });

  test('not before minTokens', async () => {
    const stop = alone({ maxTokens: 10 })[1];
    const sampling = { maxTokens: 10, minTokens: 6, stopTokenIds: [stop] };
    const { tokenIds } = (await run(toyRequest('a', PROMPT, sampling))).get('a/0')!;
    expect(tokenIds.length).toBeGreaterThanOrEqual(6);
    expect(tokenIds.slice(0, 6)).not.toContain(stop);
    expect(tokenIds).toEqual(alone(sampling));
  });

  test('at the end of the context', async () => {
    const { tokenIds, last } = (await run(toyRequest('a', PROMPT, { maxTokens: 1000 }))).get('a/0')!;
    expect(tokenIds).toHaveLength(64 - PROMPT.length);
    expect(last.finishReason).toBe('length');
  });

  test('after the prompt if maxTokens is 0', async () => {
    const { engine, executable } = createToyEngine();
    engine.add(toyRequest('a', PROMPT, { maxTokens: 0, n: 2, promptLogprobs: 1 }));
    const collected = await runToEnd(engine);
    expect(collected.get('a/0')!.last).toMatchObject({ tokenIds: [], finishReason: 'length' });
    expect(collected.get('a/0')!.last.promptLogprobs).toHaveLength(PROMPT.length);
    expect(collected.get('a/1')!.last).toMatchObject({ finishReason: 'length', promptLogprobs: null });
    expect(executable.steps.map((step) => step.numLogitRows)).toEqual([PROMPT.length - 1]);
  });
});

describe('choices', () => {
  test('the prompt is computed once and each choice draws with its own seed', async () => {
    const { engine, executable } = createToyEngine();
    const sampling = { n: 3, temperature: 1, seed: 2n ** 64n - 2n, maxTokens: 6 };
    engine.add(toyRequest('a', PROMPT, sampling));
    const collected = await runToEnd(engine);
    expect(executable.steps[0]).toEqual({ numTokens: PROMPT.length, numSeqs: 1, numLogitRows: 3 });
    expect(executable.steps[1]).toEqual({ numTokens: 3, numSeqs: 3, numLogitRows: 3 });
    const outputs = [0, 1, 2].map((choice) => collected.get(`a/${choice}`)!.tokenIds);
    expect(outputs).toEqual([0, 1, 2].map((choice) => alone(sampling, choice)));
    expect(new Set(outputs.map(String)).size).toBe(3);
  });

  test('one of them can be aborted, before or after they part', async () => {
    const { engine } = createToyEngine();
    const sampling = { n: 3, temperature: 1, maxTokens: 4 };
    engine.add(toyRequest('a', PROMPT, sampling));
    engine.abort('a', 0);
    const collected = collect(await engine.step());
    engine.abort('a', 2);
    await runToEnd(engine, collected);
    expect(collected.get('a/0')).toMatchObject({ tokenIds: [], last: { finishReason: 'abort' } });
    expect(collected.get('a/1')!.tokenIds).toEqual(alone(sampling, 1));
    expect(collected.get('a/2')).toMatchObject({ last: { finishReason: 'abort' } });
  });
});

describe('log-probabilities', () => {
  test('of the prompt come whole with the first output, however it was cut into chunks', async () => {
    const { engine } = createToyEngine({ maxNumPromptRows: 3 });
    const prompt = Array.from({ length: 20 }, (_, i) => (i * 5) % 97);
    engine.add(toyRequest('a', prompt, { promptLogprobs: 2, maxTokens: 2, logprobs: 0 }));
    const { outputs } = (await runToEnd(engine)).get('a/0')!;
    const scored = outputs[0].promptLogprobs!;
    expect(scored).toHaveLength(prompt.length);
    expect(scored[0]).toBeNull();
    prompt.slice(1).forEach((tokenId, i) => {
      const logprob = toyPromptLogprob(prompt, i);
      expect(scored[i + 1]).toMatchObject({ tokenId, logprob });
      expect(scored[i + 1]!.top).toHaveLength(2);
    });
    expect(outputs[1].promptLogprobs).toBeNull();
    expect(outputs[0].logprobs).toEqual([
      {
        tokenId: outputs[0].tokenIds[0],
        logprob: expect.any(Number) as number,
        rank: expect.any(Number) as number,
        top: [],
      },
    ]);
  });

  test('need the whole prompt computed, but may leave blocks for others to reuse', async () => {
    const { engine } = createToyEngine();
    for (const id of ['first', 'second', 'third'])
      engine.add(toyRequest(id, PROMPT, { promptLogprobs: id === 'third' ? null : 0 }));
    const collected = await runToEnd(engine);
    engine.add(toyRequest('fourth', PROMPT));
    await runToEnd(engine, collected);
    const cached = ['first', 'second', 'third', 'fourth'].map((id) => collected.get(`${id}/0`)!);
    expect(cached.map(({ last }) => last.numCachedTokens)).toEqual([0, 0, 0, 4]);
  });
});

describe('cancellation', () => {
  test('frees the blocks within one step, and others go on', async () => {
    const { engine } = createToyEngine();
    engine.add(toyRequest('a', PROMPT, { maxTokens: 30, n: 2 }));
    engine.add(toyRequest('b', PROMPT, { maxTokens: 30 }));
    const collected = collect(await engine.step());
    for (let i = 0; i < 5; i++) collect(await engine.step(), collected);
    const heldByAll = engine.stats().numBlocks - engine.stats().numFreeBlocks;
    engine.abort('a');
    collect(await engine.step(), collected);
    expect(collected.get('a/0')!.last.finishReason).toBe('abort');
    expect(engine.stats().numBlocks - engine.stats().numFreeBlocks).toBeLessThan(heldByAll);
    engine.checkIntegrity();
    await runToEnd(engine, collected);
    expect(collected.get('b/0')!.tokenIds).toEqual(alone({ maxTokens: 30 }));
    expect(engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, numFreeBlocks: 64 });
  });

  test('works while a step runs, while waiting, and for what is not there', async () => {
    const { engine, executable } = createToyEngine({ maxNumSeqs: 1 });
    engine.add(toyRequest('running', PROMPT));
    engine.add(toyRequest('waiting', PROMPT));
    executable.onStep = () => {
      for (const id of ['running', 'waiting', 'unknown']) engine.abort(id);
      return null;
    };
    const collected = collect(await engine.step());
    expect([...collected.values()].map(({ last }) => last.finishReason)).toEqual(['abort', 'abort']);
    expect(engine.hasWork).toBe(false);
    engine.checkIntegrity();
  });
});

describe('two steps in flight', () => {
  test('the second is under way when the outputs of the first are handed out', async () => {
    const { engine, executable } = createToyEngine({ maxStepsInFlight: 2 });
    engine.add(toyRequest('a', PROMPT, { maxTokens: 3 }));
    let numStarted = 0;
    let release: () => void = () => undefined;
    executable.onStep = () =>
      ++numStarted === 2 ? new Promise((resolve) => (release = () => resolve(null))) : null;
    const collected = collect(await engine.step());
    expect(collected.get('a/0')!.tokenIds).toEqual(alone({ maxTokens: 1 }));
    expect(numStarted).toBe(2);
    release();
    await runToEnd(engine, collected);
    expect(collected.get('a/0')!.tokenIds).toEqual(alone({ maxTokens: 3 }));
    expect(executable.steps).toHaveLength(3);
  });

  test('what was computed beyond a stop token is thrown away', async () => {
    const { engine, executable } = createToyEngine({ maxStepsInFlight: 2 });
    const sampling = { maxTokens: 10, stopTokenIds: [alone({ maxTokens: 10 })[3]] };
    engine.add(toyRequest('a', PROMPT, sampling));
    const { tokenIds, last } = (await runToEnd(engine)).get('a/0')!;
    expect(tokenIds).toEqual(alone(sampling));
    expect(last.finishReason).toBe('stop');
    expect(executable.steps).toHaveLength(tokenIds.length + 1);
    expect(engine.stats()).toMatchObject({ numFreeBlocks: 64, generatedTokens: tokenIds.length });
  });

  test('whoever needs its last token for the next step waits for it, others do not', async () => {
    const { engine, executable } = createToyEngine({ maxStepsInFlight: 2 });
    const penalised = { maxTokens: 4, presencePenalty: 1 };
    engine.add(toyRequest('a', PROMPT, penalised));
    engine.add(toyRequest('b', PROMPT, { maxTokens: 4 }));
    const collected = await runToEnd(engine);
    expect(collected.get('a/0')!.tokenIds).toEqual(alone(penalised));
    expect(collected.get('b/0')!.tokenIds).toEqual(alone({ maxTokens: 4 }));
    expect(executable.numTakenOver).toBe(3);
  });

  test('a failure ends all requests once', async () => {
    const { engine, executable } = createToyEngine({ maxStepsInFlight: 2 });
    engine.add(toyRequest('a', PROMPT, { maxTokens: 9 }));
    executable.onStep = () => (executable.steps.length === 1 ? 'fail' : null);
    const collected = await runToEnd(engine);
    expect(collected.get('a/0')!.last.error?.code).toBe('device_failed');
    expect(engine.failure?.code).toBe('device_failed');
    expect(engine.hasWork).toBe(false);
  });
});

describe('deadlines', () => {
  test('count from arrival, while running and while waiting', async () => {
    const { engine, clock } = createToyEngine({ maxNumSeqs: 1 });
    clock.nowMs = 1000;
    engine.add(toyRequest('running', PROMPT, { maxTokens: 40 }, { timeoutMs: 50 }));
    engine.add(toyRequest('waiting', PROMPT, {}, { timeoutMs: 20 }));
    engine.add(toyRequest('patient', PROMPT));
    const collected = collect(await engine.step());
    clock.nowMs = 1020;
    collect(await engine.step(), collected);
    expect(collected.get('waiting/0')!.last).toMatchObject({
      finishReason: 'error',
      error: { code: 'deadline_exceeded' },
      timing: { queuedMs: 20 },
    });
    clock.nowMs = 1050;
    await runToEnd(engine, collected);
    expect(collected.get('running/0')!.last.error?.code).toBe('deadline_exceeded');
    expect(collected.get('running/0')!.tokenIds.length).toBeGreaterThan(0);
    expect(collected.get('patient/0')!.tokenIds).toEqual(alone({}));
  });

  test('timing is told with the last output', async () => {
    const { engine, executable, clock } = createToyEngine();
    engine.add(toyRequest('a', PROMPT, { maxTokens: 3 }));
    clock.nowMs = 5;
    executable.onStep = () => {
      clock.nowMs += 10;
      return null;
    };
    const { last } = (await runToEnd(engine)).get('a/0')!;
    expect(last.timing).toEqual({ queuedMs: 5, prefillMs: 10, decodeMs: 20, numPreemptions: 0 });
  });
});

describe('failures', () => {
  async function runWith(mishap: Mishap) {
    const { engine, executable } = createToyEngine();
    engine.add(toyRequest('a', PROMPT, { n: 2, maxTokens: 4 }));
    engine.add(toyRequest('b', [1, 2, 3], { maxTokens: 4 }));
    executable.onStep = () => (executable.steps.length === 1 ? mishap : null);
    return { engine, collected: await runToEnd(engine) };
  }

  test('NaN ends the request that it befell, and no other', async () => {
    const { engine, collected } = await runWith('nan');
    for (const choice of ['a/0', 'a/1'])
      expect(collected.get(choice)!.last).toMatchObject({ finishReason: 'error' });
    expect(collected.get('a/0')!.last.error?.message).toMatch(/NaN/);
    expect(collected.get('b/0')!.tokenIds).toEqual(
      toyGenerate([1, 2, 3], { maxTokens: 4 }, { maxModelLen: 64 }),
    );
    expect(engine.failure).toBeNull();
  });

  test('a broken device ends every request, and no other is taken', async () => {
    const { engine, collected } = await runWith('fail');
    for (const { last } of collected.values())
      expect(last).toMatchObject({ finishReason: 'error', error: { code: 'device_failed' } });
    expect(collected.size).toBe(3);
    expect(() => engine.add(toyRequest('c', PROMPT))).toThrow(
      expect.objectContaining({ code: 'device_failed' }),
    );
    expect(engine.hasWork).toBe(false);
  });
});

describe('the door', () => {
  const { engine } = createToyEngine();
  const refused: [string, EngineRequest, string, string | null][] = [
    ['no token', toyRequest('a', []), 'invalid_request', 'prompt'],
    ['a token id beyond the vocabulary', toyRequest('a', [5, 97]), 'invalid_request', 'prompt'],
    ['a negative token id', toyRequest('a', [-1]), 'invalid_request', 'prompt'],
    [
      'no room in the context',
      toyRequest('a', new Array<number>(64).fill(1)),
      'context_length_exceeded',
      'prompt',
    ],
    ['NaN', toyRequest('a', [1], { temperature: NaN }), 'invalid_request', 'temperature'],
    ['an absurd temperature', toyRequest('a', [1], { temperature: 1e9 }), 'invalid_request', 'temperature'],
    ['topP 0', toyRequest('a', [1], { topP: 0 }), 'invalid_request', 'top_p'],
    ['a fraction of topK', toyRequest('a', [1], { topK: 1.5 }), 'invalid_request', 'top_k'],
    ['too many choices', toyRequest('a', [1], { n: 10_000 }), 'invalid_request', 'n'],
    ['a seed of 65 bits', toyRequest('a', [1], { seed: 2n ** 64n }), 'invalid_request', 'seed'],
    [
      'a bias that is no number',
      toyRequest('a', [1], { logitBias: [{ tokenId: 1, bias: NaN }] }),
      'invalid_request',
      'logit_bias',
    ],
    [
      'a stop token beyond',
      toyRequest('a', [1], { stopTokenIds: [97] }),
      'invalid_request',
      'stop_token_ids',
    ],
    ['minTokens above maxTokens', toyRequest('a', [1], { minTokens: 17 }), 'invalid_request', 'min_tokens'],
    ['a time limit of 0', toyRequest('a', [1], {}, { timeoutMs: 0 }), 'invalid_request', 'timeout_ms'],
  ];
  test.each(refused)('refuses %s', (_, request, code, param) => {
    expect(() => engine.add(request)).toThrow(expect.objectContaining({ code, param }));
    expect(engine.hasWork).toBe(false);
  });

  test('refuses a request id that is in flight, and takes it again later', async () => {
    const toy = createToyEngine();
    toy.engine.add(toyRequest('a', PROMPT));
    expect(() => toy.engine.add(toyRequest('a', PROMPT))).toThrow(/in flight already/);
    await runToEnd(toy.engine);
    toy.engine.add(toyRequest('a', PROMPT));
  });

  test('takes a prompt that fills the context if nothing is to be generated', async () => {
    const full = toyRequest('a', new Array<number>(64).fill(1), { maxTokens: 0 });
    expect((await run(full)).get('a/0')!.last.finishReason).toBe('length');
  });
});

test('statistics count what was computed and found', async () => {
  const { engine } = createToyEngine();
  engine.add(toyRequest('a', PROMPT, { maxTokens: 3 }));
  await runToEnd(engine);
  engine.add(toyRequest('b', PROMPT, { maxTokens: 3 }));
  await runToEnd(engine);
  expect(engine.stats()).toMatchObject({
    numSteps: 6,
    promptTokens: 14,
    generatedTokens: 6,
    prefixCacheQueries: 14,
    prefixCacheHits: 4,
    lastStepTokens: 1,
  });
});

test('two engines in one process do not know of each other', async () => {
  const engines = [createToyEngine(), createToyEngine({ blockSize: 8 })];
  engines.forEach(({ engine }, i) => engine.add(toyRequest('a', PROMPT, { maxTokens: 8 + i })));
  const collected = await Promise.all(engines.map(({ engine }) => runToEnd(engine)));
  collected.forEach((result, i) => expect(result.get('a/0')!.tokenIds).toEqual(alone({ maxTokens: 8 + i })));
});

test('closing frees the device', async () => {
  const { engine, executable } = createToyEngine();
  await engine.close();
  expect(executable.isDisposed).toBe(true);
  expect(() => engine.add(toyRequest('a', PROMPT))).toThrow(
    expect.objectContaining({ code: 'shutting_down' }),
  );
});
