// Baichuan and Baichuan2: Llama with one tensor for queries, keys and values; the 13B models have ALiBi instead of RoPE.
import { z } from 'zod';
import { alibiSlopes } from '../nn/alibi.ts';
import { Attention } from '../nn/attention.ts';
import { rmsNorm } from '../nn/norm.ts';
import { decodeFloats, encodeFloats, isFloatDType } from '../tensor/dtype.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';
import { isRotaryBuffer } from './tensor-names.ts';
import { NeedletailError } from '../util/errors.ts';

const schema = z
  .object(llamaFields)
  .omit({ num_key_value_heads: true, head_dim: true })
  .extend({
    rms_norm_eps: z.number().default(1e-6),
    /** Only models that turn their heads have it. */
    max_position_embeddings: count.nullish(),
    model_max_length: count.default(4096),
  });

type BaichuanConfig = z.output<typeof schema>;

function asLlama(config: BaichuanConfig) {
  return { ...config, max_position_embeddings: config.max_position_embeddings ?? config.model_max_length };
}

/** Vocabulary of Baichuan2, whose head is normed: every row of it stands for its direction alone. */
const NORM_HEAD_VOCAB_SIZE = 125_696;

/** The head's rows divided by their lengths, in the head's own type. */
function withNormedHead(source: TensorSource): TensorSource {
  return {
    read(name) {
      const view = source.read(name);
      return name === 'lm_head.weight' ? withUnitRows(view) : view;
    },
    close: () => source.close(),
  };
}

function withUnitRows({ dtype, shape, bytes }: TensorView): TensorView {
  if (!isFloatDType(dtype)) {
    throw new NeedletailError('unsupported_model', `the rows of a head of ${dtype} codes cannot be normed`);
  }
  const values = decodeFloats(dtype, bytes);
  const columns = shape[1];
  for (let start = 0; start < values.length; start += columns) {
    const row = values.subarray(start, start + columns);
    const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
    row.forEach((value, i) => (row[i] = value / Math.max(length, 1e-12)));
  }
  return { dtype, shape, bytes: encodeFloats(dtype, values) };
}

export const baichuan = defineModel({
  modelType: 'baichuan',
  architectures: ['BaichuanForCausalLM', 'BaiChuanForCausalLM'],
  schema,
  neutralFields: ['_from_model_config'],
  facts: (config) => llamaFacts(asLlama(config)),
  forward(scope, config, contextLength) {
    const isAlibi = !config.max_position_embeddings;
    return llamaLogits(scope, asLlama(config), contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      ...(isAlibi && { rope: null }),
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          alibiSlopes: isAlibi ? alibiSlopes(base.numHeads) : null,
          names: { qkv: 'W_pack', output: 'o_proj' },
        }),
    });
  },
  adaptTensors: (source, config) =>
    config['vocab_size'] === NORM_HEAD_VOCAB_SIZE ? withNormedHead(source) : source,
  tensorNames: llamaTensors.tensorNames,
  isBuffer: (tensor) => isRotaryBuffer(tensor) || tensor.endsWith('.future_mask'),
});
