// The least work of a step does not depend on how the plan fuses what it does.
import { expect, test } from 'vitest';
import { cudaPlan, HOPPER } from '../../../test/support/cuda-launches.ts';
import { quantizationRules } from '../../compiler/quantization-rules.ts';
import { findPreset } from '../../models/presets.ts';
import { stepWork } from './work.ts';

const NUM_TOKENS = 1024;
const PROMPT = { seqs: [{ numSeqs: 1, numTokens: NUM_TOKENS, contextLen: NUM_TOKENS }] };
const CONFIG = { ...findPreset('llama-2-7b')!.config, num_hidden_layers: 2 };

const [QKV, OUTPUT, MLP, HEAD] = [3 * 4096 ** 2, 4096 ** 2, 3 * 4096 * 11008, 32000 * 4096];
const LAYERS = 2 * (QKV + OUTPUT + MLP);
/** Of the last layer, what is behind attention computes the row alone whose logits are wanted. */
const LAYER_PAIRS = NUM_TOKENS * (LAYERS - OUTPUT - MLP) + OUTPUT + MLP;
const ATTENTION_FLOPS = 2 * 4 * 4096 * NUM_TOKENS * (NUM_TOKENS / 2);
const CACHE_BYTES = 2 * (2 * 2 * 4096) * NUM_TOKENS;

test('every weight is read once, two operations for each of its numbers and rows', () => {
  expect(stepWork(cudaPlan(CONFIG, 'bfloat16', HOPPER), PROMPT)).toEqual({
    bytes: 2 * (LAYERS + HEAD) + CACHE_BYTES,
    flops: 2 * (LAYER_PAIRS + HEAD) + ATTENTION_FLOPS,
  });
});

test('products of codes, whatever is fused with them, run at twice the rate and count half', () => {
  const quantization = quantizationRules('fp8', null, ['lm_head']);
  expect(stepWork(cudaPlan(CONFIG, 'bfloat16', HOPPER, { quantization }), PROMPT)).toEqual({
    bytes: LAYERS + 2 * HEAD + CACHE_BYTES,
    flops: LAYER_PAIRS + 2 * HEAD + ATTENTION_FLOPS,
  });
});
