// The whole engine on real devices: what a request gets must be what transformers generates, alone, beside others, in
// chunks, from a reused prefix, forked, and after a preemption.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../src/engine/config.ts';
import type { LLMEngine } from '../src/engine/llm-engine.ts';
import { loadEngine } from '../src/engine/load-engine.ts';
import { findModel } from '../src/models/registry.ts';
import { loadReference, writeReference } from './support/reference-checkpoint.ts';
import { runToEnd, toyRequest, type Collection } from './support/toy-engine.ts';

/** Below this distance of the two largest logits, the greedy token may fairly differ. */
const MIN_MARGIN = 0.01;

/** Grouped-query heads, windows in all or some layers, learned positions, latents: what the engine can tell apart. */
const NAMES = ['llama2', 'llama3_gqa', 'llama_head128', 'mistral', 'gpt2', 'gpt_oss', 'deepseek_v3'];

const CASES = [
  // An interpreter takes its time.
  { device: 'reference', numTokens: 12 },
  { device: 'cpu', numTokens: 24 },
] as const;

describe.each(CASES)('$device device', ({ device, numTokens }) => {
  describe.each(NAMES)('%s', (name) => {
    const reference = loadReference(name);
    const directory = mkdtempSync(join(tmpdir(), 'needletail-'));
    beforeAll(() => writeReference(name, directory));
    afterAll(() => rmSync(directory, { recursive: true }));

    const load = (settings: Partial<EngineConfig>): Promise<LLMEngine> =>
      loadEngine({
        ...DEFAULT_ENGINE_CONFIG,
        model: directory,
        device,
        dtype: 'float32',
        maxModelLen: 80,
        blockSize: 4,
        ...settings,
      });

    /** Runs prompts, by number, all at once. */
    async function run(engine: LLMEngine, prompts: readonly number[], n = 1): Promise<void> {
      for (const prompt of prompts)
        engine.add(toyRequest(String(prompt), reference.prompts[prompt], { maxTokens: numTokens, n }));
      const collected = await runToEnd(engine);
      for (const prompt of prompts)
        for (let choice = 0; choice < n; choice++) expectGreedy(collected, prompt, choice);
    }

    function expectGreedy(collected: Collection, prompt: number, choice: number): void {
      const { tokenIds, last } = collected.get(`${prompt}/${choice}`)!;
      expect(last.error).toBeNull();
      expect(tokenIds).toHaveLength(numTokens);
      const tie = reference.margin[prompt].findIndex((margin) => margin < MIN_MARGIN);
      const certain = tie < 0 ? numTokens : Math.min(tie, numTokens);
      expect(tokenIds.slice(0, certain)).toEqual(reference.greedy[prompt].slice(0, certain));
    }

    it('alone, and from a reused prefix', async () => {
      const engine = await load({});
      for (const prompt of [0, 1, 2, 3]) await run(engine, [prompt]);
      expect(engine.stats().prefixCacheHits).toBe(0);
      for (const prompt of [0, 1, 2, 3]) await run(engine, [prompt]);
      expect(engine.stats().prefixCacheHits).toBe(4 + 20 + 44);
      await engine.close();
    });

    it('in one batch, in chunks', async () => {
      const engine = await load({ maxNumSeqs: 4, maxNumBatchedTokens: 7, enablePrefixCaching: false });
      await run(engine, [0, 1, 2, 3]);
      expect(engine.stats().numSteps).toBeGreaterThan(numTokens);
      await engine.close();
    });

    it('as several choices of one request', async () => {
      const engine = await load({ blockSize: 8 });
      await run(engine, [1, 2, 3], 3);
      await engine.close();
    });

    it('after preemptions', async () => {
      const engine = await load({ kvCacheMemoryBytes: bytesOfBlocks(20), enablePrefixCaching: false });
      expect(engine.info.numBlocks).toBe(20);
      await run(engine, [2, 1], 4);
      expect(engine.stats().numPreemptions).toBeGreaterThan(0);
      await engine.close();
    });

    /** Of all layers in float32. */
    function bytesOfBlocks(numBlocks: number): number {
      const { config } = reference;
      const { kvCaches } = findModel(config).buildGraph(config, { kvDType: 'float32', maxModelLen: 80 });
      const sizes = kvCaches.map(
        ({ numKvHeads, keyHeadDim, valueHeadDim }) => numKvHeads * (keyHeadDim + valueHeadDim),
      );
      return numBlocks * 4 * sizes.reduce((sum, size) => sum + size, 0) * 4;
    }
  });
});
