// Mistral 7B and its relatives: Llama's shape without biases, attention in a sliding window.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { rmsNorm } from '../nn/norm.ts';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const mistral = defineModel({
  modelType: 'mistral',
  architectures: ['MistralForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-6),
    // The values that transformers assumes where a config is silent.
    num_key_value_heads: count.nullable().default(8),
    max_position_embeddings: count.default(4096 * 32),
    /** Tokens that a query looks back at, itself included. */
    sliding_window: count.nullable().default(4096),
  }),
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      attention: (at, base) => new Attention(at, { ...base, window: config.sliding_window }),
    }),
  ...llamaTensors,
});
