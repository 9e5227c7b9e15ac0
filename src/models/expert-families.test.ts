// Families with experts or latent attention: published configs, their quirks, and what is refused.
import { describe, expect, it } from 'vitest';
import type { Graph, Node } from '../ir/graph.ts';
import type { HFConfig } from './model-definition.ts';
import { findModel } from './registry.ts';

/** Fields that decide a graph, as published. */
const PUBLISHED: Readonly<Record<string, HFConfig>> = {
  'Qwen3-30B-A3B': {
    architectures: ['Qwen3MoeForCausalLM'],
    model_type: 'qwen3_moe',
    attention_bias: false,
    decoder_sparse_step: 1,
    head_dim: 128,
    hidden_act: 'silu',
    hidden_size: 2048,
    intermediate_size: 6144,
    max_position_embeddings: 40960,
    max_window_layers: 48,
    mlp_only_layers: [],
    moe_intermediate_size: 768,
    norm_topk_prob: true,
    num_attention_heads: 32,
    num_experts: 128,
    num_experts_per_tok: 8,
    num_hidden_layers: 48,
    num_key_value_heads: 4,
    output_router_logits: false,
    rms_norm_eps: 1e-6,
    rope_scaling: null,
    rope_theta: 1000000,
    router_aux_loss_coef: 0.001,
    sliding_window: null,
    tie_word_embeddings: false,
    use_sliding_window: false,
    vocab_size: 151936,
  },
  'gpt-oss-20b': {
    architectures: ['GptOssForCausalLM'],
    model_type: 'gpt_oss',
    attention_bias: true,
    experts_per_token: 4,
    head_dim: 64,
    hidden_act: 'silu',
    hidden_size: 2880,
    initial_context_length: 4096,
    intermediate_size: 2880,
    layer_types: Array.from({ length: 24 }, (_, i) => (i % 2 === 0 ? 'sliding_attention' : 'full_attention')),
    max_position_embeddings: 131072,
    num_attention_heads: 64,
    num_experts_per_tok: 4,
    num_hidden_layers: 24,
    num_key_value_heads: 8,
    num_local_experts: 32,
    output_router_logits: false,
    rms_norm_eps: 1e-5,
    rope_scaling: {
      beta_fast: 32,
      beta_slow: 1,
      factor: 32,
      original_max_position_embeddings: 4096,
      rope_type: 'yarn',
      truncate: false,
    },
    rope_theta: 150000,
    router_aux_loss_coef: 0.9,
    sliding_window: 128,
    swiglu_limit: 7,
    tie_word_embeddings: false,
    vocab_size: 201088,
  },
  'DeepSeek-V2-Lite': {
    architectures: ['DeepseekV2ForCausalLM'],
    model_type: 'deepseek_v2',
    attention_bias: false,
    aux_loss_alpha: 0.001,
    first_k_dense_replace: 1,
    hidden_act: 'silu',
    hidden_size: 2048,
    intermediate_size: 10944,
    kv_lora_rank: 512,
    max_position_embeddings: 163840,
    moe_intermediate_size: 1408,
    moe_layer_freq: 1,
    n_group: 1,
    n_routed_experts: 64,
    n_shared_experts: 2,
    norm_topk_prob: false,
    num_attention_heads: 16,
    num_experts_per_tok: 6,
    num_hidden_layers: 27,
    num_key_value_heads: 16,
    pretraining_tp: 1,
    q_lora_rank: null,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    rms_norm_eps: 1e-6,
    rope_scaling: {
      beta_fast: 32,
      beta_slow: 1,
      factor: 40,
      mscale: 0.707,
      mscale_all_dim: 0.707,
      original_max_position_embeddings: 4096,
      type: 'yarn',
    },
    rope_theta: 10000,
    routed_scaling_factor: 1,
    scoring_func: 'softmax',
    seq_aux: true,
    tie_word_embeddings: false,
    topk_group: 1,
    topk_method: 'greedy',
    v_head_dim: 128,
    vocab_size: 102400,
  },
  'DeepSeek-V3': {
    architectures: ['DeepseekV3ForCausalLM'],
    model_type: 'deepseek_v3',
    attention_bias: false,
    ep_size: 1,
    first_k_dense_replace: 3,
    hidden_act: 'silu',
    hidden_size: 7168,
    intermediate_size: 18432,
    kv_lora_rank: 512,
    max_position_embeddings: 163840,
    moe_intermediate_size: 2048,
    moe_layer_freq: 1,
    n_group: 8,
    n_routed_experts: 256,
    n_shared_experts: 1,
    norm_topk_prob: true,
    num_attention_heads: 128,
    num_experts_per_tok: 8,
    num_hidden_layers: 61,
    num_key_value_heads: 128,
    num_nextn_predict_layers: 1,
    q_lora_rank: 1536,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    rms_norm_eps: 1e-6,
    rope_scaling: {
      beta_fast: 32,
      beta_slow: 1,
      factor: 40,
      mscale: 1,
      mscale_all_dim: 1,
      original_max_position_embeddings: 4096,
      type: 'yarn',
    },
    rope_theta: 10000,
    routed_scaling_factor: 2.5,
    scoring_func: 'sigmoid',
    tie_word_embeddings: false,
    topk_group: 4,
    topk_method: 'noaux_tc',
    v_head_dim: 128,
    vocab_size: 129280,
  },
};

function graphOf(config: HFConfig): Graph {
  return findModel(config).buildGraph(config, { kvDType: 'bfloat16', maxModelLen: 64 });
}

function nodesOf(config: HFConfig, op: string): readonly Node[] {
  return graphOf(config).nodes.filter((node) => node.op === op);
}

/** A published config with fewer layers. */
function short(name: string, numLayers: number, change: HFConfig = {}): HFConfig {
  return { ...PUBLISHED[name], layer_types: null, num_hidden_layers: numLayers, ...change };
}

describe('published configs', () => {
  it.each([
    ['Qwen3-30B-A3B', 30_532_122_624, 40_960],
    ['gpt-oss-20b', 20_914_757_184, 131_072],
    ['DeepSeek-V2-Lite', 15_706_484_224, 163_840],
    // With the 256 corrections of each of 58 layers.
    ['DeepSeek-V3', 671_026_404_352 + 256 * 58, 163_840],
  ])('%s has %i parameters', (name, numParameters, maxPositions) => {
    const config = PUBLISHED[name];
    expect(findModel(config).facts(config)).toMatchObject({ numParameters, maxPositions });
  });
});

describe('qwen3_moe', () => {
  it('has experts in every so manyth layer that is not listed as plain', () => {
    const config = short('Qwen3-30B-A3B', 6, { decoder_sparse_step: 2, mlp_only_layers: [3] });
    const labels = nodesOf(config, 'routeExperts').map((node) => node.label);
    expect(labels).toEqual(['model.layers.1.mlp', 'model.layers.5.mlp']);
  });

  it('refuses windows, which no published checkpoint has', () => {
    expect(() => graphOf(short('Qwen3-30B-A3B', 1, { use_sliding_window: true }))).toThrow(
      'use_sliding_window',
    );
  });
});

describe('gpt_oss', () => {
  it('reads gates and up projections from alternating columns of one tensor, expert by expert', () => {
    const { parameters } = graphOf(short('gpt-oss-20b', 1));
    const parts = parameters
      .filter(({ name }) => name.includes('gate_up_proj'))
      .map(({ parts: [, second] }) => second);
    const weight = { tensor: 'model.layers.0.mlp.experts.gate_up_proj', tensorShape: [32, 2880, 5760] };
    const bias = { tensor: 'model.layers.0.mlp.experts.gate_up_proj_bias', tensorShape: [32, 5760] };
    const rows = { transpose: true, rowCount: 2880, rowStep: 2 };
    expect(parts).toMatchObject([
      { ...weight, ...rows, rowStart: 0, columnStart: 2880, columnCount: 2880 },
      { ...bias, ...rows, rowStart: 0, columnStart: 1, columnCount: 1 },
      { ...weight, ...rows, rowStart: 1, columnStart: 2880, columnCount: 2880 },
      { ...bias, ...rows, rowStart: 1, columnStart: 1, columnCount: 1 },
    ]);
  });

  it('has a window in every other layer, from the first on', () => {
    expect(graphOf(short('gpt-oss-20b', 3)).kvCaches.map((cache) => cache.window)).toEqual([128, null, 128]);
  });

  it('refuses MXFP4 weights by name', () => {
    const quantization = { quant_method: 'mxfp4', modules_to_not_convert: ['model.layers.*.self_attn'] };
    const config = short('gpt-oss-20b', 1, { quantization_config: quantization });
    expect(() => graphOf(config)).toThrow(/quantization_config: "mxfp4".*take a checkpoint of bfloat16/);
  });
});

describe('deepseek', () => {
  it('caches one latent and one rotary key per token', () => {
    const { kvCaches } = graphOf(short('DeepSeek-V3', 1));
    expect(kvCaches).toMatchObject([{ numKvHeads: 1, keyHeadDim: 64, valueHeadDim: 512 }]);
  });

  it('scales scores by the square of the growth that mscale_all_dim names', () => {
    const growth = 0.1 * 0.707 * Math.log(40) + 1;
    const scaleOf = (change: HFConfig): unknown =>
      nodesOf(short('DeepSeek-V2-Lite', 1, change), 'latentAttention')[0].attributes['scale'];
    expect(scaleOf({})).toBeCloseTo(growth ** 2 / Math.sqrt(192), 10);
    expect(scaleOf({ rope_scaling: null })).toBeCloseTo(1 / Math.sqrt(192), 10);
  });

  it('V3 chooses experts from the best groups by corrected sigmoids', () => {
    const [{ inputs, attributes }] = nodesOf(short('DeepSeek-V3', 4), 'routeExperts');
    expect(inputs[1].name).toBe('model.layers.3.mlp.gate.e_score_correction_bias');
    expect(attributes).toEqual({
      numExpertsPerToken: 8,
      scoring: 'sigmoid',
      normalize: true,
      scale: 2.5,
      groups: { numGroups: 8, numSelected: 4, score: 'twoBest' },
    });
  });

  it('V3 ignores the layers that predict further tokens', () => {
    const config = PUBLISHED['DeepSeek-V3'];
    const model = findModel(config);
    expect(model.isBuffer?.('model.layers.61.eh_proj.weight', config)).toBe(true);
    expect(model.isBuffer?.('model.layers.60.mlp.gate.weight', config)).toBe(false);
    expect(model.isBuffer?.('model.norm.weight', config)).toBe(false);
  });

  it.each([
    ['DeepSeek-V2-Lite', { norm_topk_prob: true }, 'norm_topk_prob'],
    ['DeepSeek-V2-Lite', { scoring_func: 'sigmoid' }, 'scoring_func'],
    ['DeepSeek-V2-Lite', { topk_method: 'noaux_tc' }, 'topk_method'],
    ['DeepSeek-V3', { topk_method: 'greedy' }, 'topk_method'],
    ['DeepSeek-V3', { quantization_config: { quant_method: 'fp8' } }, 'quantization_config: "fp8"'],
    ['DeepSeek-V3', { quantization_config: { bits: 4 } }, 'quantization_config: no quant_method'],
    ['DeepSeek-V3', { index_topk: 2048 }, 'index_topk: 2048'],
  ])('%s with %o is refused', (name, change, message) => {
    expect(() => graphOf(short(name, 1, change))).toThrow(message);
  });
});
