// GLM-4 in Hugging Face's form: Llama's shape, gate and up fused, half of each head turned in neighbouring pairs.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { GatedMLP } from '../nn/mlp.ts';
import { rmsNorm } from '../nn/norm.ts';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { headDimOf, llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';
import { readRope, ropeFor } from './rope-config.ts';

export const glm = defineModel({
  modelType: 'glm',
  architectures: ['GlmForCausalLM'],
  schema: z.object({
    ...llamaFields,
    num_key_value_heads: count.nullable().default(2),
    head_dim: count.nullable().default(128),
    rms_norm_eps: z.number().default(1.5625e-7),
    max_position_embeddings: count.default(131072),
    partial_rotary_factor: z.number().positive().max(1).default(0.5),
    attention_bias: z.boolean().default(true),
  }),
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      rope: ropeFor(readRope(config), headDimOf(config), contextLength, true),
      attention: (at, base) => new Attention(at, { ...base, bias: config.attention_bias, outputBias: false }),
      mlp: (at, base) => new GatedMLP(at, { ...base, names: { gateUp: 'gate_up_proj', down: 'down_proj' } }),
    }),
  ...llamaTensors,
});
