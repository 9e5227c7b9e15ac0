// The frame of DeepSeek-V2 and V3: latent attention; shared experts beside routed ones.
import { z } from 'zod';
import type { Routing } from '../ir/ops/route-experts.ts';
import { gatedBy, MixtureOfExperts, separateExperts } from '../nn/experts.ts';
import { LatentAttention } from '../nn/latent-attention.ts';
import { GatedMLP, type GatedMLPOptions } from '../nn/mlp.ts';
import type { Module } from '../nn/module.ts';
import { rmsNorm } from '../nn/norm.ts';
import { yarnMagnitude } from '../nn/rope.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { count } from './config.ts';
import { llamaFields, llamaLogits } from './llama.ts';
import { readRope, ropeFor } from './rope-config.ts';

/** What V2 and V3 name alike. */
export const deepseekFields = {
  ...llamaFields,
  rms_norm_eps: z.number().default(1e-6),
  attention_bias: z.boolean().default(false),
  q_lora_rank: count.nullable().default(1536),
  kv_lora_rank: count.default(512),
  qk_nope_head_dim: count.default(128),
  qk_rope_head_dim: count.default(64),
  v_head_dim: count.default(128),
  moe_intermediate_size: count,
  n_routed_experts: count,
  n_shared_experts: count.nullish(),
  num_experts_per_tok: count,
  /** Layers before this one have no experts; of the others every so manyth has. */
  first_k_dense_replace: z.int().nonnegative().default(0),
  moe_layer_freq: count.default(1),
  n_group: count.nullish(),
  topk_group: count.nullish(),
};

export const DEEPSEEK_NEUTRAL_FIELDS = [
  'aux_loss_alpha',
  'ep_size',
  'seq_aux',
  'qk_head_dim',
  'num_nextn_predict_layers',
];

type DeepseekConfig = z.output<z.ZodObject<typeof deepseekFields>>;

export interface DeepseekVariant {
  readonly routing: Omit<Routing, 'numExpertsPerToken'>;
  /** Experts have a correction that takes part in their choice. */
  readonly hasCorrection: boolean;
  /** Neighbouring columns turn together. */
  readonly interleaved: boolean;
}

export function deepseekLogits(
  scope: Scope,
  config: DeepseekConfig,
  contextLength: number,
  variant: DeepseekVariant,
): Tensor {
  const { qk_rope_head_dim: ropeDim, rms_norm_eps: eps, moe_layer_freq: frequency } = config;
  const rope = ropeFor(readRope(config), ropeDim, contextLength, variant.interleaved);
  const hasExperts = (layer: number): boolean =>
    layer >= config.first_k_dense_replace && layer % frequency === 0;
  return llamaLogits(scope, { ...config, head_dim: ropeDim }, contextLength, {
    norm: rmsNorm(eps),
    rope,
    attention: (at, { layer, hiddenSize, numHeads }) =>
      new LatentAttention(at, {
        layer,
        hiddenSize,
        numHeads,
        queryRank: config.q_lora_rank,
        latentDim: config.kv_lora_rank,
        nopeDim: config.qk_nope_head_dim,
        ropeDim,
        valueDim: config.v_head_dim,
        scale: attentionScale(config),
        rope,
        bias: config.attention_bias,
        eps,
      }),
    mlp: (at, base, layer) =>
      hasExperts(layer) ? experts(at, config, base, variant) : new GatedMLP(at, base),
  });
}

function experts(
  scope: Scope,
  config: DeepseekConfig,
  base: GatedMLPOptions,
  variant: DeepseekVariant,
): Module {
  const { n_shared_experts: numShared, moe_intermediate_size: intermediateSize } = config;
  const shared = { ...base, intermediateSize: intermediateSize * (numShared ?? 0) };
  return new MixtureOfExperts(scope, {
    hiddenSize: base.hiddenSize,
    intermediateSize,
    numExperts: config.n_routed_experts,
    router: { name: 'gate', bias: false, hasCorrection: variant.hasCorrection },
    routing: { ...variant.routing, numExpertsPerToken: config.num_experts_per_tok },
    tensors: separateExperts(scope),
    gating: gatedBy(base.activation),
    shared: numShared ? new GatedMLP(scope.at('shared_experts'), shared) : null,
  });
}

/** 1/√(columns of a head), corrected for the growth that YaRN's \`mscale_all_dim\` names. */
function attentionScale(config: DeepseekConfig): number {
  const scale = 1 / Math.sqrt(config.qk_nope_head_dim + config.qk_rope_head_dim);
  const { scaling } = readRope(config);
  if (scaling.type !== 'yarn' || !scaling.mscaleAllDim) return scale;
  return scale * yarnMagnitude(scaling.factor, scaling.mscaleAllDim) ** 2;
}

/** Groups that experts are chosen from; null: all. */
export function expertGroups(
  { n_group: numGroups, topk_group: numSelected }: DeepseekConfig,
  score: 'best' | 'twoBest',
): Routing['groups'] {
  return numGroups && numSelected && numGroups > 1 ? { numGroups, numSelected, score } : null;
}
