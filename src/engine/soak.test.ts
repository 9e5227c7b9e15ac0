// Ten thousand requests of mixed shape, many of them cancelled: nothing may be left of them.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { randomChoices } from '../../test/support/random-numbers.ts';
import { createToyEngine, toyRequest } from '../../test/support/toy-engine.ts';
import { InProcessEngine } from './engine-client.ts';
import type { EngineRequest } from './protocol.ts';

const NUM_REQUESTS = 10_000;
const NUM_CLIENTS = 24;

function mixedRequest(id: number, random: (below: number) => number): EngineRequest {
  const shared = Array.from({ length: random(16) }, (_, i) => i);
  const own = Array.from({ length: 1 + random(20) }, () => random(97));
  return toyRequest(
    `request ${id}`,
    [...shared, ...own],
    {
      maxTokens: random(12),
      n: random(8) === 0 ? 3 : 1,
      temperature: random(2),
      seed: BigInt(id),
      stopTokenIds: [random(97)],
      presencePenalty: random(4) === 0 ? 1 : 0,
      promptLogprobs: random(16) === 0 ? 1 : null,
    },
    { priority: random(3), cacheSalt: random(5) === 0 ? 'tenant' : '' },
  );
}

function collectGarbage(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}

test('10 000 requests of mixed shape with random cancellations leave nothing behind', async () => {
  const { engine, executable } = createToyEngine({
    maxModelLen: 48,
    numBlocks: 40,
    schedulingPolicy: 'priority',
    maxNumBatchedTokens: 64,
    maxStepsInFlight: 2,
  });
  const client = new InProcessEngine(engine);
  const random = randomChoices(1);
  let numStarted = 0;
  let numCancelled = 0;
  let heapBytes = 0;

  async function serveOne(): Promise<void> {
    const request = mixedRequest(numStarted++, random);
    const controller = new AbortController();
    const way = random(6);
    if (way === 0) setImmediate(() => controller.abort());
    if (way === 1) setImmediate(() => client.abort(request.requestId, 0));
    for await (const _ of client.generate(request, controller.signal)) {
      if (way === 2) break;
    }
    if (way <= 2) numCancelled++;
  }

  async function clientLoop(): Promise<void> {
    while (numStarted < NUM_REQUESTS) {
      await serveOne();
      if (numStarted === NUM_REQUESTS / 5) heapBytes = collectGarbage();
      if (random(500) === 0) engine.checkIntegrity();
      executable.steps.length = 0;
    }
  }

  await Promise.all(Array.from({ length: NUM_CLIENTS }, clientLoop));
  while (engine.hasWork) await new Promise(setImmediate);
  engine.checkIntegrity();
  expect(numCancelled).toBeGreaterThan(3000);
  const stats = engine.stats();
  expect(stats).toMatchObject({ numRunning: 0, numWaiting: 0, numFreeBlocks: stats.numBlocks });
  expect(stats.numPreemptions).toBeGreaterThan(50);
  // 8 000 requests later: a kilobyte kept of each would be 8 MB.
  expect(collectGarbage() - heapBytes).toBeLessThan(2 * 2 ** 20);
  await client.close();
});
