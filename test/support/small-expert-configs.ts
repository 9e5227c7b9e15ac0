// Random small configs of the families with experts or latent attention.
import fc from 'fast-check';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { family, llamaNames, ownHiddenSize, type Sizes } from './small-configs.ts';

const bool = fc.boolean();
const fewLayers = fc.integer({ min: 0, max: 2 });

/** Experts in as many groups as there are heads of keys and values, of which some are selected. */
function groupsOf({ numKvHeads, groupSize }: Sizes): {
  numGroups: number;
  numSelected: number;
  groupSize: number;
} {
  return {
    numGroups: numKvHeads + 1,
    numSelected: Math.min(groupSize, numKvHeads),
    groupSize: groupSize + 1,
  };
}

function expertNames(drawn: Sizes): HFConfig {
  const { numGroups, numSelected, groupSize } = groupsOf(drawn);
  return {
    ...ownHiddenSize(drawn),
    num_local_experts: numGroups * groupSize,
    num_experts_per_tok: numSelected * groupSize,
  };
}

function deepseekNames(drawn: Sizes): HFConfig {
  const { numGroups, numSelected, groupSize } = groupsOf(drawn);
  const { num_key_value_heads: _, ...names } = llamaNames(drawn);
  return {
    ...names,
    hidden_size: 192,
    kv_lora_rank: 3 * drawn.headDim,
    qk_nope_head_dim: drawn.headDim - 3,
    qk_rope_head_dim: drawn.headDim,
    v_head_dim: drawn.headDim + 1,
    n_routed_experts: numGroups * groupSize,
    n_group: numGroups,
    topk_group: numSelected,
    num_experts_per_tok: numSelected * groupSize - 1,
    moe_intermediate_size: drawn.intermediateSize,
  };
}

const deepseekSwitches = {
  attention_bias: bool,
  q_lora_rank: fc.constantFrom(null, 20),
  n_shared_experts: fc.constantFrom(null, 1, 2),
  first_k_dense_replace: fewLayers,
  rope_scaling: fc.constantFrom(null, {
    type: 'yarn',
    factor: 4,
    original_max_position_embeddings: 16,
    mscale: 1,
    mscale_all_dim: 0.7,
  }),
};

export const SMALL_EXPERT_CONFIGS: readonly (readonly [string, fc.Arbitrary<HFConfig>])[] = [
  family('MixtralForCausalLM', expertNames, { sliding_window: fc.constantFrom(null, 3) }),
  family('Qwen3MoeForCausalLM', expertNames, {
    moe_intermediate_size: fc.integer({ min: 1, max: 40 }),
    norm_topk_prob: bool,
    attention_bias: bool,
    mlp_only_layers: fc.uniqueArray(fewLayers),
    decoder_sparse_step: fc.integer({ min: 1, max: 2 }),
  }),
  family('GptOssForCausalLM', expertNames, {
    attention_bias: bool,
    sliding_window: fc.constantFrom(1, 3, 16),
  }),
  family('DeepseekV2ForCausalLM', deepseekNames, {
    ...deepseekSwitches,
    topk_method: fc.constantFrom('greedy', 'group_limited_greedy'),
  }),
  family('DeepseekV3ForCausalLM', deepseekNames, {
    ...deepseekSwitches,
    norm_topk_prob: bool,
    rope_interleave: bool,
  }),
];
