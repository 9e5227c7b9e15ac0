// Cohere's Command R: Llama's names, attention and feed-forward beside each other, LayerNorm without bias.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { ParallelBlock } from '../nn/block.ts';
import { scale } from '../nn/functional.ts';
import { HeadLayerNorm, layerNorm } from '../nn/norm.ts';
import type { Scope } from '../nn/tensor.ts';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { headDimOf, llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';
import { readRope, ropeFor } from './rope-config.ts';

export const cohere = defineModel({
  modelType: 'cohere',
  architectures: ['CohereForCausalLM'],
  schema: z.object({
    ...llamaFields,
    layer_norm_eps: z.number().default(1e-5),
    max_position_embeddings: count.default(8192),
    tie_word_embeddings: z.boolean().default(true),
    attention_bias: z.boolean().default(false),
    use_qk_norm: z.boolean().default(false),
    logit_scale: z.number().default(0.0625),
  }),
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { layer_norm_eps: eps, attention_bias: bias } = config;
    const headDim = headDimOf(config);
    const headNorm = (at: Scope, numHeads: number) =>
      config.use_qk_norm ? new HeadLayerNorm(at, numHeads, headDim, eps, 'matrix') : null;
    return llamaLogits(scope, config, contextLength, {
      norm: layerNorm(eps, false),
      rope: ropeFor(readRope(config), headDim, contextLength, true),
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          bias,
          queryNorm: headNorm(at.at('q_norm'), base.numHeads),
          keyNorm: headNorm(at.at('k_norm'), base.numKvHeads),
        }),
      block: (at, { attention, mlp, norm }) =>
        new ParallelBlock(at, { norm: norm('input_layernorm'), attention, mlp }),
      frame: { adjustLogits: (logits) => scale(logits, config.logit_scale) },
    });
  },
  ...llamaTensors,
});
