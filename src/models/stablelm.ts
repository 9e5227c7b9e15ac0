// StableLM: Llama with LayerNorm and heads that turn in part; the branches may stand beside each other.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { ParallelBlock, SequentialBlock } from '../nn/block.ts';
import { HeadLayerNorm, layerNorm } from '../nn/norm.ts';
import type { Scope } from '../nn/tensor.ts';
import { count, only } from './config.ts';
import { defineModel } from './define-model.ts';
import { headDimOf, llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const stablelm = defineModel({
  modelType: 'stablelm',
  architectures: ['StableLmForCausalLM'],
  schema: z.object({
    ...llamaFields,
    layer_norm_eps: z.number().default(1e-5),
    max_position_embeddings: count.default(4096),
    partial_rotary_factor: z.number().positive().max(1).default(0.25),
    use_qkv_bias: z.boolean().default(false),
    qk_layernorm: z.boolean().default(false),
    use_parallel_residual: z.boolean().default(false),
    rotary_scaling_factor: only(1),
  }),
  neutralFields: ['norm_eps'], // overruled by layer_norm_eps
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { layer_norm_eps: eps, use_qkv_bias: bias } = config;
    const headNorm = (at: Scope, numHeads: number) =>
      config.qk_layernorm ? new HeadLayerNorm(at, numHeads, headDimOf(config), eps, 'vectors') : null;
    return llamaLogits(scope, config, contextLength, {
      norm: layerNorm(eps),
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          bias,
          outputBias: false,
          queryNorm: headNorm(at.at('q_layernorm'), base.numHeads),
          keyNorm: headNorm(at.at('k_layernorm'), base.numKvHeads),
        }),
      block(at, { attention, mlp, norm }) {
        if (config.use_parallel_residual) {
          return new ParallelBlock(at, { norm: norm('input_layernorm'), attention, mlp });
        }
        return new SequentialBlock(at, {
          attention: { norm: norm('input_layernorm'), body: attention },
          mlp: { norm: norm('post_attention_layernorm'), body: mlp },
        });
      },
    });
  },
  ...llamaTensors,
});
