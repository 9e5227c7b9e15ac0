// Requests of mixed shape on the GPU, many of them cancelled, for NEEDLETAIL_SOAK_SECONDS (by default a few): no block and no
// device memory may be left of them, and what the engine holds must be what its ledger says.
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import { DEFAULT_ENGINE_CONFIG } from '../src/engine/config.ts';
import { InProcessEngine } from '../src/engine/engine-client.ts';
import { loadEngine } from '../src/engine/load-engine.ts';
import type { EngineRequest } from '../src/engine/protocol.ts';
import { describeCuda } from './support/cuda.ts';
import { randomChoices } from './support/random-numbers.ts';
import { toyRequest } from './support/toy-engine.ts';

const MODEL = fileURLToPath(new URL('../models/llama-tales-8m', import.meta.url));
const SECONDS = Number(process.env['NEEDLETAIL_SOAK_SECONDS'] ?? 5);
const NUM_CLIENTS = 96;
const VOCAB_SIZE = 6144;

function mixedRequest(id: number, random: (below: number) => number): EngineRequest {
  const shared = Array.from({ length: random(4) * 40 }, (_, i) => i);
  const own = Array.from({ length: 1 + random(random(8) === 0 ? 600 : 60) }, () => random(VOCAB_SIZE));
  return toyRequest(
    `request ${id}`,
    [...shared, ...own],
    {
      maxTokens: random(random(8) === 0 ? 300 : 40),
      n: random(8) === 0 ? 3 : 1,
      temperature: random(2),
      topK: random(3) * 20,
      topP: random(3) === 0 ? 0.9 : 1,
      seed: BigInt(id),
      presencePenalty: random(4) === 0 ? 1 : 0,
      logprobs: random(6) === 0 ? 3 : null,
      promptLogprobs: random(24) === 0 ? 1 : null,
    },
    { cacheSalt: random(5) === 0 ? 'tenant' : '' },
  );
}

describeCuda('soak', () => {
  it(
    `${SECONDS} seconds of mixed load leave nothing behind`,
    { timeout: (SECONDS + 120) * 1000 },
    async () => {
      const device = await CudaDevice.open();
      const { driver } = device.runtime;
      const config = {
        ...DEFAULT_ENGINE_CONFIG,
        model: MODEL,
        device: 'cuda',
        maxNumBatchedTokens: 1024,
        kvCacheMemoryBytes: 6 * 2 ** 20, // so little that sequences are preempted
      } as const;
      const engine = await loadEngine(config, { device });
      const client = new InProcessEngine(engine);
      const random = randomChoices(1);
      const endMs = performance.now() + SECONDS * 1000;
      let [numStarted, numCancelled, numFailed] = [0, 0, 0];

      async function serveOne(): Promise<void> {
        const request = mixedRequest(numStarted++, random);
        const controller = new AbortController();
        const way = random(8);
        if (way === 0) setImmediate(() => controller.abort());
        if (way === 1) setTimeout(() => client.abort(request.requestId, 0), random(20));
        for await (const output of client.generate(request, controller.signal)) {
          if (output.error) numFailed++;
          if (way === 2) break;
        }
        if (way <= 2) numCancelled++;
      }

      async function clientLoop(until: number): Promise<void> {
        while (performance.now() < until) await serveOne();
      }

      const serve = (until: number): Promise<unknown> =>
        Promise.all(Array.from({ length: NUM_CLIENTS }, () => clientLoop(until)));
      await serve(endMs - SECONDS * 800); // warm: kernels loaded, steps recorded, lists grown
      const { heldBytes } = driver;
      await serve(endMs);
      while (engine.hasWork) await new Promise(setImmediate);

      engine.checkIntegrity();
      const stats = engine.stats();
      console.log(`${numStarted} requests, ${numCancelled} cancelled, ${stats.numPreemptions} preemptions`);
      expect(stats.numPreemptions).toBeGreaterThan(0);
      expect(numFailed).toBe(0);
      expect(numCancelled).toBeGreaterThan(numStarted / 5);
      expect(stats).toMatchObject({ numRunning: 0, numWaiting: 0, numFreeBlocks: stats.numBlocks });
      // Lists of penalties and log-probabilities may have grown; nothing else may.
      expect(driver.heldBytes - heldBytes).toBeLessThan(2 ** 20);
      await client.close();
      expect(driver.heldBytes).toBe(0);
      await device.dispose();
    },
  );
});
