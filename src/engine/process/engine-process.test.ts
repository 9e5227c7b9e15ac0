import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { toyRequest } from '../../../test/support/toy-engine.ts';
import { toyGenerate } from '../../../test/support/toy-executable.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../config.ts';
import type { EngineOutput } from '../protocol.ts';
import { type EngineProcess, type EngineProcessOptions, startEngineProcess } from './engine-process.ts';

const ENTRY = new URL('../../../test/support/toy-engine-main.ts', import.meta.url);
const PARENT = new URL('../../../test/support/toy-engine-parent.ts', import.meta.url);
// As in toy-engine-main.ts, which runs when it is imported.
const HANG_TOKEN = 96;
const BREAK_TOKEN = 95;
const PROMPT = [31, 32, 33, 34, 35];

const started: EngineProcess[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((engine) => engine.close()));
});

/** An engine that lives as long as the test. */
async function start(
  config: Partial<EngineConfig> = {},
  options: EngineProcessOptions = {},
): Promise<EngineProcess> {
  const engine = await launch(config, options);
  started.push(engine);
  return engine;
}

function launch(config: Partial<EngineConfig>, options: EngineProcessOptions): Promise<EngineProcess> {
  const full = { ...DEFAULT_ENGINE_CONFIG, model: 'toy', ...config };
  return startEngineProcess(full, { entry: ENTRY, ...options });
}

async function readAll(stream: AsyncIterable<EngineOutput>): Promise<EngineOutput[]> {
  const outputs: EngineOutput[] = [];
  for await (const output of stream) outputs.push(output);
  return outputs;
}

const tokensOf = (outputs: readonly EngineOutput[]) => outputs.flatMap((output) => output.tokenIds);

/** Waits for what must come, however long a busy machine takes. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await delay(5);
}

/** A zombie is dead, too: in a container nobody may collect an orphan. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' && process.platform !== 'linux';
  }
}

describe('an engine in its own process', () => {
  let engine: EngineProcess;
  const progress: string[] = [];
  beforeAll(async () => {
    const onProgress: EngineProcessOptions['onProgress'] = ({ stage, done, total }) =>
      progress.push(`${stage} ${done}/${total}`);
    engine = await launch({}, { onProgress });
  });
  afterAll(() => engine.close());

  test('serves requests as one in this process does', async () => {
    expect(progress).toEqual(['weights 1/2', 'weights 2/2']);
    expect(engine.info).toMatchObject({ vocabSize: 97, maxModelLen: 4096 });
    const sampling = { maxTokens: 8, n: 2, temperature: 1, seed: 2n ** 63n, logprobs: 2, promptLogprobs: 1 };
    const outputs = await readAll(engine.generate(toyRequest('a', PROMPT, sampling)));
    for (const choice of [0, 1]) {
      const own = outputs.filter(({ index }) => index === choice);
      expect(tokensOf(own)).toEqual(toyGenerate(PROMPT, sampling, { choice, maxModelLen: 4096 }));
      expect(own.at(-1)).toMatchObject({ requestId: 'a', finishReason: 'length', error: null });
      expect(own.flatMap(({ logprobs }) => logprobs!.map(({ tokenId }) => tokenId))).toEqual(tokensOf(own));
      expect(own.at(-1)!.timing!.prefillMs).toBeGreaterThanOrEqual(0);
    }
    expect(outputs[0].promptLogprobs!.map((entry) => entry?.tokenId)).toEqual([
      undefined,
      ...PROMPT.slice(1),
    ]);
    expect(engine.stats().generatedTokens).toBe(16);
    expect(await engine.isHealthy()).toBe(true);
  });

  test('carries biases that JSON cannot', async () => {
    const [first] = toyGenerate(PROMPT, { maxTokens: 1 }, { maxModelLen: 4096 });
    const logitBias = [{ tokenId: first, bias: -Infinity }];
    const outputs = await readAll(engine.generate(toyRequest('a', PROMPT, { maxTokens: 1, logitBias })));
    expect(tokensOf(outputs)).toEqual(
      toyGenerate(PROMPT, { maxTokens: 1, logitBias }, { maxModelLen: 4096 }),
    );
  });

  test('serves many readers at once, and two engines side by side', async () => {
    const engines = [engine, await start()];
    const reads = engines.flatMap((engine) =>
      Array.from({ length: 20 }, (_, i) =>
        readAll(engine.generate(toyRequest(`r${i}`, [...PROMPT, i], { maxTokens: 5 + i }))),
      ),
    );
    const results = await Promise.all(reads);
    results.forEach((outputs, i) => {
      const expected = toyGenerate([...PROMPT, i % 20], { maxTokens: 5 + (i % 20) }, { maxModelLen: 4096 });
      expect(tokensOf(outputs)).toEqual(expected);
    });
  });

  test('refuses what is wrong and what the queue cannot hold', async () => {
    const small = await start({ maxNumSeqs: 1, maxNumQueuedReqs: 1 });
    await expect(readAll(small.generate(toyRequest('a', [97])))).rejects.toMatchObject({ param: 'prompt' });
    const results = await Promise.allSettled(
      ['b', 'c', 'd', 'e'].map((id) => readAll(small.generate(toyRequest(id, PROMPT, { maxTokens: 20 })))),
    );
    const refused = results.filter((result) => result.status === 'rejected');
    expect(refused.length).toBeGreaterThan(0);
    for (const { reason } of refused) expect(reason).toMatchObject({ code: 'queue_full' });
    expect(tokensOf((results[0] as PromiseFulfilledResult<EngineOutput[]>).value)).toHaveLength(20);
  });

  test('keeps deadlines', async () => {
    const request = toyRequest('a', PROMPT, { maxTokens: 4000 }, { timeoutMs: 30 });
    const outputs = await readAll(engine.generate(request));
    expect(outputs.at(-1)).toMatchObject({ finishReason: 'error', error: { code: 'deadline_exceeded' } });
  });

  test('a reader that leaves frees the blocks over there', async () => {
    for await (const _ of engine.generate(toyRequest('a', PROMPT, { maxTokens: 4000 }))) break;
    await until(() => engine.stats().numRunning === 0);
    expect(engine.stats().numFreeBlocks).toBe(engine.stats().numBlocks);
    const controller = new AbortController();
    const reading = readAll(engine.generate(toyRequest('b', PROMPT, { maxTokens: 4000 }), controller.signal));
    await until(() => engine.stats().numRunning === 1);
    controller.abort();
    expect((await reading).at(-1)!.finishReason).toBe('abort');
  });

  test('tells why it could not start', async () => {
    await expect(start({ model: 'missing' })).rejects.toMatchObject({
      code: 'bad_checkpoint',
      message: 'no tensor named "x"',
    });
    await expect(start({ model: tmpdir() })).rejects.toMatchObject({
      code: 'engine_died',
      message: expect.stringContaining('exit code 7') as string,
    });
  });
});

describe('when the process dies', () => {
  test('requests in flight throw engine_died, a new process takes over', async () => {
    const deaths: string[] = [];
    const engine = await start({}, { onDeath: (reason) => deaths.push(reason) });
    const request = toyRequest('a', PROMPT, { maxTokens: 4000 });
    const reading = expect(readAll(engine.generate(request))).rejects.toMatchObject({ code: 'engine_died' });
    await until(() => engine.stats().numRunning === 1);
    const pid = engine.pid!;
    process.kill(pid, 'SIGKILL');
    await reading;
    expect(deaths).toEqual(['signal SIGKILL']);
    expect(await engine.isHealthy()).toBe(false);
    expect(engine.stats().numRunning).toBe(0);
    await expect(readAll(engine.generate(request))).rejects.toMatchObject({ code: 'engine_died' });
    await until(() => engine.isHealthy());
    expect(engine.pid).not.toBe(pid);
    const outputs = await readAll(engine.generate(toyRequest('a', PROMPT, { maxTokens: 5 })));
    expect(tokensOf(outputs)).toEqual(toyGenerate(PROMPT, { maxTokens: 5 }, { maxModelLen: 4096 }));
  });

  test('a broken device ends it, after the requests have heard of it', async () => {
    const engine = await start();
    const outputs = await readAll(engine.generate(toyRequest('a', [BREAK_TOKEN])));
    expect(outputs.at(-1)).toMatchObject({ finishReason: 'error', error: { code: 'device_failed' } });
    await until(async () => !(await engine.isHealthy()));
    await until(() => engine.isHealthy());
    expect(tokensOf(await readAll(engine.generate(toyRequest('a', PROMPT))))).toHaveLength(16);
  });

  test('one that cannot start any more is given up', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
    const file = path.join(folder, 'die');
    const deaths: string[] = [];
    const engine = await start(
      { model: file },
      { onDeath: (reason) => deaths.push(reason), restartDelaysMs: [0, 1, 1] },
    );
    writeFileSync(file, '');
    process.kill(engine.pid!, 'SIGKILL');
    await until(() => deaths.length === 4);
    rmSync(folder, { recursive: true });
    await expect(readAll(engine.generate(toyRequest('a', PROMPT)))).rejects.toMatchObject({
      code: 'engine_died',
      message: expect.stringContaining('could not be restarted') as string,
    });
    expect(await engine.isHealthy()).toBe(false);
  });

  test('one that hangs is unhealthy', async () => {
    const clock = { nowMs: 0, now: () => clock.nowMs };
    const engine = await start({}, { clock, watchdogMs: 1000 });
    clock.nowMs = 5000;
    expect(await engine.isHealthy()).toBe(true);
    const reading = expect(readAll(engine.generate(toyRequest('a', [HANG_TOKEN])))).rejects.toMatchObject({
      code: 'engine_died',
    });
    clock.nowMs = 5900;
    expect(await engine.isHealthy()).toBe(true);
    clock.nowMs = 6100;
    expect(await engine.isHealthy()).toBe(false);
    process.kill(engine.pid!, 'SIGKILL'); // closing would wait for the step for a while
    await reading;
    await until(() => engine.isHealthy());
  });
});

describe('its parent', () => {
  async function startParent(mode: string) {
    const parent = spawn(process.execPath, ['--import', 'tsx', fileURLToPath(PARENT), mode], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const [line] = (await once(parent.stdout.setEncoding('utf8'), 'data')) as [string];
    return { parent, childPid: Number(line) };
  }

  test('ends by itself once it has closed the engine, and nothing is left', async () => {
    const { parent, childPid } = await startParent('close');
    // What the child prints while it loads did not get into the parent's output.
    expect(childPid).toBeGreaterThan(0);
    expect(await once(parent, 'exit')).toEqual([0, null]);
    expect(isAlive(childPid)).toBe(false);
  });

  test('takes the engine along when it dies', async () => {
    const { parent, childPid } = await startParent('stay');
    expect(isAlive(childPid)).toBe(true);
    parent.kill('SIGKILL');
    await until(() => !isAlive(childPid));
  });
});

test('closing waits for the process to be gone', async () => {
  const engine = await start();
  const pid = engine.pid!;
  await engine.close();
  expect(isAlive(pid)).toBe(false);
  await expect(readAll(engine.generate(toyRequest('a', PROMPT)))).rejects.toMatchObject({
    code: 'shutting_down',
  });
  await engine.close();
});
