// Mistral 7B and its relatives: Llama's shape without biases, attention in a sliding window.
import { z } from 'zod';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { isRotaryBuffer, llamaFacts, llamaFields, llamaLogits, llamaTensorNames, type LlamaConfig } from './llama.ts';

const schema = z.object({
  ...llamaFields,
  // The values that transformers assumes where a config is silent.
  num_key_value_heads: count.nullable().default(8),
  max_position_embeddings: count.default(4096 * 32),
  /** Tokens that a query looks back at, itself included. */
  sliding_window: count.nullable().default(4096),
});

function asLlama(config: z.output<typeof schema>): LlamaConfig {
  return { ...config, attention_bias: false, mlp_bias: false };
}

export const mistral = defineModel({
  modelType: 'mistral',
  architectures: ['MistralForCausalLM'],
  schema,
  facts: (config) => llamaFacts(asLlama(config)),
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, asLlama(config), contextLength, config.sliding_window),
  tensorNames: llamaTensorNames,
  isBuffer: isRotaryBuffer,
});
