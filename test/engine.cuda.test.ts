// The whole engine on the GPU: requests get what transformers generates, in one batch, in chunks, and with little memory.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../src/engine/config.ts';
import type { LLMEngine } from '../src/engine/llm-engine.ts';
import { loadEngine } from '../src/engine/load-engine.ts';
import { describeCuda } from './support/cuda.ts';
import { loadReference, writeReference } from './support/reference-checkpoint.ts';
import { runToEnd, toyRequest } from './support/toy-engine.ts';

/** Below this distance of the two largest logits, the greedy token may fairly differ. */
const MIN_MARGIN = 0.01;
const NUM_TOKENS = 24;

describeCuda('engine on cuda', () => {
  describe.each(['llama3_gqa', 'mistral', 'gpt2'])('%s', (name) => {
    const reference = loadReference(name);
    const directory = mkdtempSync(join(tmpdir(), 'needletail-'));
    beforeAll(() => writeReference(name, directory));
    afterAll(() => rmSync(directory, { recursive: true }));

    const load = (settings: Partial<EngineConfig>): Promise<LLMEngine> =>
      loadEngine({
        ...DEFAULT_ENGINE_CONFIG,
        model: directory,
        device: 'cuda',
        dtype: 'float32',
        maxModelLen: 80,
        blockSize: 4,
        ...settings,
      });

    /** Tokens of n choices for each prompt. */
    async function greedy(engine: LLMEngine, n = 1): Promise<(readonly number[])[]> {
      for (const [prompt, tokenIds] of reference.prompts.entries())
        engine.add(toyRequest(String(prompt), tokenIds, { maxTokens: NUM_TOKENS, n }));
      const collected = await runToEnd(engine);
      return reference.prompts.flatMap((_, prompt) =>
        Array.from({ length: n }, (__, choice) => collected.get(`${prompt}/${choice}`)!.tokenIds),
      );
    }

    async function expectGreedy(engine: LLMEngine, n = 1): Promise<void> {
      for (const [prompt, tokenIds] of reference.prompts.entries())
        engine.add(toyRequest(String(prompt), tokenIds, { maxTokens: NUM_TOKENS, n }));
      const collected = await runToEnd(engine);
      for (const prompt of reference.prompts.keys())
        for (let choice = 0; choice < n; choice++) {
          const { tokenIds, last } = collected.get(`${prompt}/${choice}`)!;
          expect(last.error).toBeNull();
          const tie = reference.margin[prompt].findIndex((margin) => margin < MIN_MARGIN);
          const certain = tie < 0 ? NUM_TOKENS : Math.min(tie, NUM_TOKENS);
          expect(tokenIds.slice(0, certain)).toEqual(reference.greedy[prompt].slice(0, certain));
        }
    }

    it('in one batch, and from reused prefixes', async () => {
      const engine = await load({});
      await expectGreedy(engine);
      await expectGreedy(engine, 3);
      await engine.close();
    });

    it('in chunks', async () => {
      const engine = await load({ maxNumSeqs: 4, maxNumBatchedTokens: 7, enablePrefixCaching: false });
      await expectGreedy(engine);
      await engine.close();
    });

    it.each([
      ['fp8', 16],
      ['int8', 4],
    ] as const)('with an %s KV cache the same however it is computed', async (kvCacheDType, blockSize) => {
      const settings = { kvCacheDType, blockSize, batchInvariant: true };
      const engine = await load(settings);
      const expected = await greedy(engine);
      expect(await greedy(engine), 'from reused prefixes').toEqual(expected);
      const choices = await greedy(engine, 3);
      expected.forEach((tokens, i) =>
        expect(choices.slice(3 * i, 3 * i + 3)).toEqual([tokens, tokens, tokens]),
      );
      await engine.close();
      const chunks = { maxNumSeqs: 4, maxNumBatchedTokens: 7, enablePrefixCaching: false };
      const chunked = await load({ ...settings, ...chunks });
      expect(await greedy(chunked), 'in chunks').toEqual(expected);
      await chunked.close();
    });

    it('with little memory', async () => {
      const engine = await load({ kvCacheMemoryBytes: 2 ** 20, enablePrefixCaching: false });
      await expectGreedy(engine, 4);
      await engine.close();
    });
  });
});
