// Mixtral: Mistral's shape with a mixture of experts in every layer.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { gatedBy, MixtureOfExperts, separateExperts } from '../nn/experts.ts';
import { rmsNorm } from '../nn/norm.ts';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const mixtral = defineModel({
  modelType: 'mixtral',
  architectures: ['MixtralForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-5),
    num_key_value_heads: count.nullable().default(8),
    max_position_embeddings: count.default(4096 * 32),
    sliding_window: count.nullish(),
    num_local_experts: count.default(8),
    num_experts_per_tok: count.default(2),
  }),
  neutralFields: ['output_router_logits', 'router_aux_loss_coef', 'router_jitter_noise'],
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      halves: { attention: 'self_attn', mlp: 'block_sparse_moe' },
      attention: (at, base) => new Attention(at, { ...base, window: config.sliding_window ?? null }),
      mlp: (at, { hiddenSize, intermediateSize, activation }) =>
        new MixtureOfExperts(at, {
          hiddenSize,
          intermediateSize,
          numExperts: config.num_local_experts,
          router: { name: 'gate', bias: false },
          routing: {
            numExpertsPerToken: config.num_experts_per_tok,
            scoring: 'softmax',
            normalize: true,
            scale: 1,
            groups: null,
          },
          tensors: separateExperts(at, { gate: 'w1', up: 'w3', down: 'w2' }),
          gating: gatedBy(activation),
        }),
    }),
  ...llamaTensors,
});
