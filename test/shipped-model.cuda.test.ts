// The model that comes with the package on the GPU: its perplexity is nearly that of float32, in 16 bits and in 8.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../src/engine/config.ts';
import { InProcessEngine } from '../src/engine/engine-client.ts';
import { loadEngine } from '../src/engine/load-engine.ts';
import { describeCuda } from './support/cuda.ts';
import { toyRequest } from './support/toy-engine.ts';

const MODEL = new URL('../models/llama-tales-8m', import.meta.url).pathname;
const WINDOW = 1024;
const NUM_WINDOWS = 320;
/** Of transformers in float32. */
const PERPLEXITY = 7.5908;

type Precision = Pick<EngineConfig, 'dtype' | 'quantization' | 'kvCacheDType'>;

const FLOATS = { quantization: null, kvCacheDType: 'auto' } as const;
/** Precisions, and by how much they may change perplexity. */
const PRECISIONS: readonly (readonly [Precision, number])[] = [
  [{ dtype: 'bfloat16', ...FLOATS }, 5e-3],
  [{ dtype: 'float16', ...FLOATS }, 5e-3],
  [{ dtype: 'float32', ...FLOATS }, 5e-3],
  [{ dtype: 'bfloat16', quantization: 'int8', kvCacheDType: 'int8' }, 3e-3],
  [{ dtype: 'bfloat16', quantization: 'fp8', kvCacheDType: 'fp8' }, 1.6e-2],
];

describeCuda('the shipped model on the GPU', () => {
  describe.each(PRECISIONS)('in %j', (precision, maxChange) => {
    it(`has its perplexity within ${100 * maxChange} %`, { timeout: 300_000 }, async () => {
      const tokens = JSON.parse(readFileSync(`${MODEL}/validation_tokens.json`, 'utf8')) as number[];
      const settings = { model: MODEL, device: 'cuda', ...precision, maxNumBatchedTokens: 4096 } as const;
      const engine = new InProcessEngine(await loadEngine({ ...DEFAULT_ENGINE_CONFIG, ...settings }));
      const losses = await Promise.all(
        Array.from({ length: NUM_WINDOWS }, async (_, i) => {
          const prompt = tokens.slice(i * WINDOW, (i + 1) * WINDOW);
          const request = toyRequest(`${i}`, prompt, { maxTokens: 0, promptLogprobs: 0 });
          let loss = 0;
          for await (const { promptLogprobs } of engine.generate(request))
            for (const token of promptLogprobs ?? []) loss -= token?.logprob ?? 0;
          return loss;
        }),
      );
      await engine.close();
      const perplexity = Math.exp(losses.reduce((a, b) => a + b) / (NUM_WINDOWS * (WINDOW - 1)));
      console.log(`perplexity in ${JSON.stringify(precision)}: ${perplexity.toFixed(4)}`);
      expect(Math.abs(perplexity / PERPLEXITY - 1)).toBeLessThan(maxChange);
    });
  });
});
