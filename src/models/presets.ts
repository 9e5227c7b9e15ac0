// Configurations of well-known models by name, as their publishers' config.json has them: enough to plan, to count
// memory and to measure with random weights, without a download.
import type { HFConfig } from './model-definition.ts';

export interface Preset {
  readonly name: string;
  readonly config: HFConfig;
}

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  attention_bias: false,
  hidden_act: 'silu',
  mlp_bias: false,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
} as const;

const LLAMA_2 = {
  ...LLAMA,
  vocab_size: 32000,
  max_position_embeddings: 4096,
  rope_theta: 10000,
  rope_scaling: null,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: 'float16',
} as const;

const LLAMA_3 = {
  ...LLAMA,
  vocab_size: 128256,
  max_position_embeddings: 8192,
  rope_theta: 500000,
  rope_scaling: null,
  bos_token_id: 128000,
  eos_token_id: 128001,
  torch_dtype: 'bfloat16',
} as const;

function llama31(factor: number): HFConfig {
  return {
    ...LLAMA_3,
    max_position_embeddings: 131072,
    rope_scaling: {
      rope_type: 'llama3',
      factor,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
  };
}

function llamaShape(
  numLayers: number,
  hiddenSize: number,
  intermediateSize: number,
  numHeads: number,
  numKvHeads: number,
): HFConfig {
  return {
    num_hidden_layers: numLayers,
    hidden_size: hiddenSize,
    intermediate_size: intermediateSize,
    num_attention_heads: numHeads,
    num_key_value_heads: numKvHeads,
  };
}

const SHAPE_8B = llamaShape(32, 4096, 14336, 32, 8);
const SHAPE_70B = llamaShape(80, 8192, 28672, 64, 8);

function gpt2(numLayers: number, hiddenSize: number, numHeads: number, numPositions = 1024): HFConfig {
  return {
    architectures: ['GPT2LMHeadModel'],
    model_type: 'gpt2',
    activation_function: 'gelu_new',
    layer_norm_epsilon: 1e-5,
    n_layer: numLayers,
    n_embd: hiddenSize,
    n_head: numHeads,
    n_positions: numPositions,
    n_ctx: numPositions,
    vocab_size: 50257,
    bos_token_id: 50256,
    eos_token_id: 50256,
  };
}

function falcon(numLayers: number, hiddenSize: number, numHeads: number): HFConfig {
  return {
    architectures: ['FalconForCausalLM'],
    model_type: 'falcon',
    vocab_size: 65024,
    hidden_size: hiddenSize,
    num_hidden_layers: numLayers,
    num_attention_heads: numHeads,
    num_kv_heads: 8,
    new_decoder_architecture: true,
    parallel_attn: true,
    multi_query: true,
    alibi: false,
    bias: false,
    layer_norm_epsilon: 1e-5,
    bos_token_id: 11,
    eos_token_id: 11,
    torch_dtype: 'bfloat16',
  };
}

const PRESETS: Readonly<Record<string, HFConfig>> = {
  'llama-2-7b': { ...LLAMA_2, ...llamaShape(32, 4096, 11008, 32, 32) },
  'llama-2-13b': { ...LLAMA_2, ...llamaShape(40, 5120, 13824, 40, 40) },
  'llama-2-70b': { ...LLAMA_2, ...SHAPE_70B },
  'llama-3-8b': { ...LLAMA_3, ...SHAPE_8B },
  'llama-3-70b': { ...LLAMA_3, ...SHAPE_70B },
  'llama-3.1-8b': { ...llama31(8), ...SHAPE_8B },
  'llama-3.1-70b': { ...llama31(8), ...SHAPE_70B },
  'llama-3.2-1b': {
    ...llama31(32),
    ...llamaShape(16, 2048, 8192, 32, 8),
    head_dim: 64,
    tie_word_embeddings: true,
  },
  'llama-3.2-3b': {
    ...llama31(32),
    ...llamaShape(28, 3072, 8192, 24, 8),
    head_dim: 128,
    tie_word_embeddings: true,
  },
  'tinyllama-1.1b': {
    ...LLAMA_2,
    ...llamaShape(22, 2048, 5632, 32, 4),
    max_position_embeddings: 2048,
    torch_dtype: 'bfloat16',
  },
  'mistral-7b': {
    architectures: ['MistralForCausalLM'],
    model_type: 'mistral',
    ...SHAPE_8B,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    sliding_window: 4096,
    max_position_embeddings: 32768,
    vocab_size: 32000,
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: 'bfloat16',
  },
  'mixtral-8x7b': {
    architectures: ['MixtralForCausalLM'],
    model_type: 'mixtral',
    ...SHAPE_8B,
    num_local_experts: 8,
    num_experts_per_tok: 2,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 1000000,
    sliding_window: null,
    max_position_embeddings: 32768,
    vocab_size: 32000,
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: 'bfloat16',
  },
  'qwen2.5-7b': {
    architectures: ['Qwen2ForCausalLM'],
    model_type: 'qwen2',
    ...llamaShape(28, 3584, 18944, 28, 4),
    hidden_act: 'silu',
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    use_sliding_window: false,
    sliding_window: 131072,
    max_window_layers: 28,
    max_position_embeddings: 131072,
    vocab_size: 152064,
    tie_word_embeddings: false,
    bos_token_id: 151643,
    eos_token_id: 151643,
    torch_dtype: 'bfloat16',
  },
  'gpt-j-6b': {
    architectures: ['GPTJForCausalLM'],
    model_type: 'gptj',
    activation_function: 'gelu_new',
    layer_norm_epsilon: 1e-5,
    n_layer: 28,
    n_embd: 4096,
    n_head: 16,
    n_positions: 2048,
    rotary_dim: 64,
    vocab_size: 50400,
    tie_word_embeddings: false,
    bos_token_id: 50256,
    eos_token_id: 50256,
  },
  'falcon-40b': falcon(60, 8192, 128),
  'falcon-180b': falcon(80, 14848, 232),
  'mpt-30b': {
    architectures: ['MPTForCausalLM'],
    model_type: 'mpt',
    attn_config: { alibi: true, alibi_bias_max: 8, attn_type: 'multihead_attention', clip_qkv: null },
    d_model: 7168,
    n_heads: 64,
    n_layers: 48,
    expansion_ratio: 4,
    max_seq_len: 8192,
    no_bias: true,
    vocab_size: 50432,
    torch_dtype: 'bfloat16',
  },
  'bloom-176b': {
    architectures: ['BloomForCausalLM'],
    model_type: 'bloom',
    hidden_size: 14336,
    n_layer: 70,
    n_head: 112,
    layer_norm_epsilon: 1e-5,
    seq_length: 2048,
    vocab_size: 250880,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: 'bfloat16',
  },
  'gemma-7b': {
    architectures: ['GemmaForCausalLM'],
    model_type: 'gemma',
    ...llamaShape(28, 3072, 24576, 16, 16),
    head_dim: 256,
    hidden_act: 'gelu_pytorch_tanh',
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    vocab_size: 256000,
    bos_token_id: 2,
    eos_token_id: 1,
    torch_dtype: 'bfloat16',
  },
  gpt2: gpt2(12, 768, 12),
  'gpt2-medium': gpt2(24, 1024, 16),
  'gpt2-large': gpt2(36, 1280, 20),
  'gpt2-xl': gpt2(48, 1600, 25),
  // GPT-3 alternates dense and banded sparse attention; this is its size with dense attention throughout.
  'gpt3-175b': gpt2(96, 12288, 96, 2048),
  'llama-tales-8m': {
    ...LLAMA,
    ...llamaShape(8, 256, 768, 4, 2),
    head_dim: 64,
    vocab_size: 6144,
    max_position_embeddings: 1024,
    rope_theta: 10000,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 1,
    torch_dtype: 'bfloat16',
  },
};

/** The preset of that name, in any case; null if there is none. */
export function findPreset(name: string): Preset | null {
  const key = name.toLowerCase();
  return Object.hasOwn(PRESETS, key) ? { name: key, config: PRESETS[key] } : null;
}

export function presetNames(): readonly string[] {
  return Object.keys(PRESETS);
}
