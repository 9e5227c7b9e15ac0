// Gemma: Llama's shape with scaled token vectors, norm weights stored as distances from 1, heads of a width of their own.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { scale } from '../nn/functional.ts';
import { rmsNorm } from '../nn/norm.ts';
import type { Tensor } from '../nn/tensor.ts';
import { activationName, count } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors, type LlamaVariant } from './llama.ts';

/** What all Gemmas name alike. Older configs also carry a `hidden_act`, which `hidden_activation` overrules. */
export const gemmaFields = {
  ...llamaFields,
  head_dim: count.default(256),
  hidden_activation: activationName.nullish().transform((kind) => kind ?? 'geluTanh'),
  rms_norm_eps: z.number().default(1e-6),
  max_position_embeddings: count.default(8192),
  tie_word_embeddings: z.boolean().default(true),
  attention_bias: z.boolean().default(false),
};

/** The weights of Gemma's norms are stored as distances from 1. */
export const WEIGHT_OFFSET = 1;

/** How all Gemmas vary Llama. */
export function gemmaVariant(
  config: z.output<z.ZodObject<typeof gemmaFields>>,
): Pick<LlamaVariant, 'norm' | 'frame'> {
  return {
    norm: rmsNorm(config.rms_norm_eps, WEIGHT_OFFSET),
    frame: { embed: (x: Tensor) => scale(x, Math.sqrt(config.hidden_size)) },
  };
}

export const gemma = defineModel({
  modelType: 'gemma',
  architectures: ['GemmaForCausalLM'],
  schema: z.object({
    ...gemmaFields,
    // The models were trained with the approximation by tanh, also where their first configs say `gelu`.
    hidden_act: z
      .enum(['gelu', 'gelu_pytorch_tanh'])
      .nullish()
      .transform(() => 'geluTanh' as const),
  }),
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, { ...config, hidden_act: config.hidden_activation }, contextLength, {
      ...gemmaVariant(config),
      attention: (at, base) => new Attention(at, { ...base, bias: config.attention_bias }),
    }),
  ...llamaTensors,
});
