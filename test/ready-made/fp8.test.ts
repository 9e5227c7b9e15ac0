// Checkpoints of float8 weights as transformers, FBGEMM and ModelOpt publish them.
import { describe, expect, it } from 'vitest';
import { PER_CHANNEL, PER_TENSOR, rowsPublisher } from '../support/published-rows.ts';
import { errorOf, f32, loading, type ReadyMade } from '../support/ready-made.ts';

const type = 'F8_E4M3';
const scaleSuffix = '.weight_scale';
const perTensor = rowsPublisher({
  ...PER_TENSOR,
  type,
  scaleSuffix,
  others: { '.input_scale': f32([], [0.05]) },
});
const perChannel = rowsPublisher({ ...PER_CHANNEL, type, scaleSuffix });
/** The last block of rows is not full. */
const [BLOCK_ROWS, BLOCK_COLUMNS] = [96, 64];
const blocks = rowsPublisher({
  type,
  block: () => [BLOCK_ROWS, BLOCK_COLUMNS],
  scaleShape: (rows, columns) => [Math.ceil(rows / BLOCK_ROWS), columns / BLOCK_COLUMNS],
  scaleSuffix: '.weight_scale_inv',
});
const model = 'llama3_gqa';

const CASES: Readonly<Record<string, ReadyMade>> = {
  'fp8 per tensor, static': {
    model,
    quantizationConfig: { quant_method: 'fp8', activation_scheme: 'static' },
    publish: perTensor,
  },
  'fp8 in blocks': {
    model,
    quantizationConfig: {
      quant_method: 'fp8',
      fmt: 'e4m3',
      activation_scheme: 'dynamic',
      weight_block_size: [BLOCK_ROWS, BLOCK_COLUMNS],
    },
    publish: blocks,
    keep: /layers\.0\.mlp/,
  },
  'fp8 in blocks, with latent attention': {
    model: 'deepseek_v3',
    quantizationConfig: { quant_method: 'fp8', activation_scheme: 'dynamic', weight_block_size: [16, 16] },
    publish: rowsPublisher({
      type,
      block: () => [16, 16],
      scaleShape: (rows, columns) => [Math.ceil(rows / 16), columns / 16],
      scaleSuffix: '.weight_scale_inv',
    }),
  },
  fbgemm_fp8: {
    model,
    quantizationConfig: {
      quant_method: 'fbgemm_fp8',
      activation_scale_ub: 1200,
      modules_to_not_convert: ['lm_head'],
    },
    publish: perChannel,
  },
  modelopt: {
    model,
    quantizationConfig: { quant_method: 'modelopt', quant_algo: 'FP8', kv_cache_quant_algo: null },
    publish: perTensor,
  },
  'modelopt in hf_quant_config.json': {
    model: 'mixtral',
    quantizationConfig: undefined,
    files: {
      'hf_quant_config.json': {
        producer: { name: 'modelopt' },
        quantization: { quant_algo: 'FP8', exclude_modules: ['lm_head'] },
      },
    },
    publish: perTensor,
  },
};

describe.each(Object.keys(CASES))('%s', (name) => {
  it('gives the logits of the floats it means', async () => {
    expect(await errorOf(CASES[name])).toBeLessThan(1e-4);
  });
});

it.each(['fp8 per tensor, static', 'fp8 in blocks', 'fbgemm_fp8'])(
  '%s: near them in 8-bit activations',
  async (name) => {
    const error = await errorOf(CASES[name], { precision: 'auto' });
    expect(error).toBeGreaterThan(1e-4);
    expect(error).toBeLessThan(0.4);
  },
);

it.each<[string, string, Partial<ReadyMade>, RegExp]>([
  [
    'modelopt',
    'NVFP4',
    { quantizationConfig: { quant_method: 'modelopt', quant_algo: 'NVFP4' } },
    /quant_algo is "NVFP4", and only "FP8"/,
  ],
  ['modelopt', 'scales per channel', { publish: perChannel }, /weight_scale is F32 \[256, 1\], but must be/],
  [
    'fp8 in blocks',
    'powers of two',
    { quantizationConfig: { quant_method: 'fp8', scale_fmt: 'ue8m0', weight_block_size: [96, 64] } },
    /scale_fmt is "ue8m0"/,
  ],
  [
    'fp8 in blocks',
    'other blocks',
    { quantizationConfig: { quant_method: 'fp8', weight_block_size: [128, 128] } },
    /weight_scale_inv is F32/,
  ],
  [
    'fbgemm_fp8',
    'an unknown method',
    { quantizationConfig: { quant_method: 'bitsandbytes' } },
    /bitsandbytes/,
  ],
])('%s with %s is refused', async (name, _, change, message) => {
  await expect(loading({ ...CASES[name], ...change })).rejects.toThrow(message);
});
