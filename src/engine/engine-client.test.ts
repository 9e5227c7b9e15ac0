import { describe, expect, test } from 'vitest';
import { createToyEngine, toyRequest, type ToyEngineOptions } from '../../test/support/toy-engine.ts';
import { toyGenerate } from '../../test/support/toy-executable.ts';
import { InProcessEngine } from './engine-client.ts';
import { OutputStream } from './output-stream.ts';
import type { EngineOutput } from './protocol.ts';

const PROMPT = [21, 22, 23, 24, 25];
const alone = (maxTokens: number) => toyGenerate(PROMPT, { maxTokens }, { maxModelLen: 64 });

function createClient(options: Partial<ToyEngineOptions> = {}) {
  const toy = createToyEngine(options);
  return { ...toy, client: new InProcessEngine(toy.engine, { clock: toy.clock, watchdogMs: 100 }) };
}

async function readAll(stream: AsyncIterable<EngineOutput>): Promise<EngineOutput[]> {
  const outputs: EngineOutput[] = [];
  for await (const output of stream) outputs.push(output);
  return outputs;
}

const tokensOf = (outputs: readonly EngineOutput[]) => outputs.flatMap((output) => output.tokenIds);

/** A step that the test lets go when it likes. */
function holdSteps(toy: ReturnType<typeof createClient>): () => void {
  let release = () => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  toy.executable.onStep = async () => {
    await held;
    return null;
  };
  return release;
}

describe('generate', () => {
  test('streams a request while others run', async () => {
    const { client } = createClient();
    const streams = [5, 9, 2].map((maxTokens, i) =>
      readAll(client.generate(toyRequest(`r${i}`, PROMPT, { maxTokens }))),
    );
    expect((await Promise.all(streams)).map(tokensOf)).toEqual([alone(5), alone(9), alone(2)]);
    await client.close();
  });

  test('throws what the engine refuses', async () => {
    const { client } = createClient({ maxNumQueuedReqs: 1 });
    await expect(readAll(client.generate(toyRequest('a', [])))).rejects.toMatchObject({ param: 'prompt' });
    const first = readAll(client.generate(toyRequest('b', PROMPT)));
    await expect(readAll(client.generate(toyRequest('c', PROMPT)))).rejects.toMatchObject({
      code: 'queue_full',
    });
    expect(tokensOf(await first)).toHaveLength(16);
    await client.close();
  });

  test('a signal ends the choices with abort', async () => {
    const { client, engine } = createClient();
    const controller = new AbortController();
    const outputs: EngineOutput[] = [];
    for await (const output of client.generate(
      toyRequest('a', PROMPT, { maxTokens: 50, n: 2 }),
      controller.signal,
    )) {
      outputs.push(output);
      if (outputs.length === 4) controller.abort();
    }
    expect(
      outputs
        .filter((output) => output.finishReason === 'abort')
        .map(({ index }) => index)
        .sort(),
    ).toEqual([0, 1]);
    const late = await readAll(client.generate(toyRequest('b', PROMPT), controller.signal));
    expect(late.map(({ finishReason }) => finishReason)).toEqual(['abort']);
    engine.checkIntegrity();
    await client.close();
  });

  test('a reader that leaves aborts its request', async () => {
    const { client, engine } = createClient();
    for await (const _ of client.generate(toyRequest('a', PROMPT, { maxTokens: 50 }))) break;
    while (engine.hasWork) await new Promise(setImmediate);
    expect(engine.stats().generatedTokens).toBeLessThan(5);
    expect(engine.stats().numFreeBlocks).toBe(engine.stats().numBlocks);
    await client.close();
  });

  test('a choice can be ended alone', async () => {
    const { client } = createClient();
    const outputs: EngineOutput[] = [];
    for await (const output of client.generate(toyRequest('a', PROMPT, { maxTokens: 10, n: 2 }))) {
      if (outputs.length === 0) client.abort('a', 1);
      outputs.push(output);
    }
    const last = [0, 1].map((index) => outputs.findLast((output) => output.index === index));
    expect(last.map((output) => output?.finishReason)).toEqual(['length', 'abort']);
    await client.close();
  });

  test('a reader that lags gets one merged output, not a queue', async () => {
    const { client, engine } = createClient();
    const reader = client.generate(toyRequest('a', PROMPT, { maxTokens: 20, logprobs: 0 }));
    const first = await reader.next();
    while (engine.hasWork) await new Promise(setImmediate);
    const second = await reader.next();
    expect((await reader.next()).done).toBe(true);
    const outputs = [first.value, second.value] as EngineOutput[];
    expect(tokensOf(outputs)).toEqual(alone(20));
    expect(outputs[1].logprobs).toHaveLength(outputs[1].tokenIds.length);
    expect(outputs[1].finishReason).toBe('length');
    await client.close();
  });
});

describe('health', () => {
  test('a step that hangs is noticed, and forgiven when it ends', async () => {
    const toy = createClient();
    const release = holdSteps(toy);
    const reading = readAll(toy.client.generate(toyRequest('a', PROMPT, { maxTokens: 2 })));
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    expect(await toy.client.isHealthy()).toBe(true);
    toy.clock.nowMs += 101;
    expect(await toy.client.isHealthy()).toBe(false);
    release();
    await reading;
    expect(await toy.client.isHealthy()).toBe(true);
    await toy.client.close();
    expect(await toy.client.isHealthy()).toBe(false);
  });

  test('a broken device is unhealthy', async () => {
    const { client, executable } = createClient();
    executable.onStep = () => 'fail';
    const outputs = await readAll(client.generate(toyRequest('a', PROMPT)));
    expect(outputs.at(-1)).toMatchObject({ finishReason: 'error', error: { code: 'device_failed' } });
    expect(await client.isHealthy()).toBe(false);
    await client.close();
  });
});

test('listeners hear of every step until they unsubscribe', async () => {
  const { client, executable } = createClient();
  const heard: number[] = [];
  const unsubscribe = client.onStats((stats) => heard.push(stats.numSteps));
  await readAll(client.generate(toyRequest('a', PROMPT, { maxTokens: 3 })));
  unsubscribe();
  await readAll(client.generate(toyRequest('b', PROMPT, { maxTokens: 3 })));
  expect(heard).toEqual([1, 2, 3]);
  expect(client.stats().numSteps).toBe(executable.steps.length);
  await client.close();
});

test('closing fails what is in flight, waits for the step and frees the device', async () => {
  const toy = createClient();
  const release = holdSteps(toy);
  const reading = readAll(toy.client.generate(toyRequest('a', PROMPT)));
  const rejection = expect(reading).rejects.toMatchObject({ code: 'shutting_down' });
  await new Promise(setImmediate);
  const closing = toy.client.close();
  await rejection;
  expect(toy.executable.isDisposed).toBe(false);
  release();
  await closing;
  expect(toy.executable.isDisposed).toBe(true);
  await expect(readAll(toy.client.generate(toyRequest('b', PROMPT)))).rejects.toMatchObject({
    code: 'shutting_down',
  });
});

test('an output stream hands out what it has before it fails', async () => {
  const stream = new OutputStream(1);
  const output = { index: 0, tokenIds: [1], finishReason: null } as unknown as EngineOutput;
  stream.push(output);
  stream.fail(new Error('died'));
  const reader = stream.read();
  expect((await reader.next()).value).toEqual(output);
  await expect(reader.next()).rejects.toThrow('died');
});
