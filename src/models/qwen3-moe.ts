// Qwen3 with a mixture of experts in some of its layers.
import { z } from 'zod';
import { gatedBy, MixtureOfExperts, separateExperts } from '../nn/experts.ts';
import { GatedMLP } from '../nn/mlp.ts';
import { rmsNorm } from '../nn/norm.ts';
import { count, only } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';
import { normedAttention } from './qwen3.ts';

export const qwen3Moe = defineModel({
  modelType: 'qwen3_moe',
  architectures: ['Qwen3MoeForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-6),
    max_position_embeddings: count.default(32768),
    attention_bias: z.boolean().default(false),
    use_sliding_window: only(false),
    num_local_experts: count.default(128),
    num_experts_per_tok: count.default(8),
    moe_intermediate_size: count.default(768),
    norm_topk_prob: z.boolean().default(false),
    /** Layers without experts: those listed, and all but every so manyth. */
    mlp_only_layers: z.array(z.int().nonnegative()).nullish(),
    decoder_sparse_step: count.default(1),
  }),
  aliases: { num_experts: 'num_local_experts' },
  neutralFields: ['sliding_window', 'max_window_layers', 'output_router_logits', 'router_aux_loss_coef'],
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { attention_bias: bias, rms_norm_eps: eps } = config;
    const isSparse = (layer: number): boolean =>
      !config.mlp_only_layers?.includes(layer) && (layer + 1) % config.decoder_sparse_step === 0;
    return llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(eps),
      attention: (at, base) => normedAttention(at, { ...base, bias }, eps),
      mlp: (at, base, layer) =>
        !isSparse(layer)
          ? new GatedMLP(at, base)
          : new MixtureOfExperts(at, {
              hiddenSize: base.hiddenSize,
              intermediateSize: config.moe_intermediate_size,
              numExperts: config.num_local_experts,
              router: { name: 'gate', bias: false },
              routing: {
                numExpertsPerToken: config.num_experts_per_tok,
                scoring: 'softmax',
                normalize: config.norm_topk_prob,
                scale: 1,
                groups: null,
              },
              tensors: separateExperts(at),
              gating: gatedBy(base.activation),
            }),
    });
  },
  ...llamaTensors,
});
