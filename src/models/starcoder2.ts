// StarCoder2: Llama's names with LayerNorm, biases and a plain feed-forward; attention in a sliding window.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { MLP } from '../nn/mlp.ts';
import { layerNorm } from '../nn/norm.ts';
import { activationName, count, only } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const starcoder2 = defineModel({
  modelType: 'starcoder2',
  architectures: ['Starcoder2ForCausalLM'],
  schema: z.object({
    ...llamaFields,
    num_key_value_heads: count.nullable().default(2),
    hidden_act: activationName.default('geluTanh'),
    norm_epsilon: z.number().default(1e-5),
    max_position_embeddings: count.default(4096),
    tie_word_embeddings: z.boolean().default(true),
    sliding_window: count.nullish(),
    use_bias: z.boolean().default(true),
    mlp_type: only('default'),
    norm_type: only('layer_norm'),
    scale_attn_weights: only(true),
  }),
  neutralFields: [
    'activation_function', // overruled by hidden_act
    'attention_softmax_in_fp32',
    'embedding_dropout',
    'layer_norm_epsilon', // overruled by norm_epsilon
    'residual_dropout',
    'scale_attention_softmax_in_fp32',
  ],
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { use_bias: bias, sliding_window: window = null } = config;
    return llamaLogits(scope, config, contextLength, {
      norm: layerNorm(config.norm_epsilon),
      attention: (at, base) => new Attention(at, { ...base, bias, window }),
      mlp: (at, base) => new MLP(at, { ...base, bias, names: { up: 'c_fc', down: 'c_proj' } }),
    });
  },
  ...llamaTensors,
});
