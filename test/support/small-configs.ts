// Random small configs of every family: sizes that divide badly, any number of heads, every switch that its models have.
import fc from 'fast-check';
import type { HFConfig } from '../../src/models/model-definition.ts';

const bool = fc.boolean();
const kind = fc.constantFrom('silu', 'gelu', 'gelu_new', 'relu');

/** Sizes that all families share; the hidden size is the heads' columns, or 192. */
const sizes = fc
  .record({
    numKvHeads: fc.integer({ min: 1, max: 3 }),
    groupSize: fc.integer({ min: 1, max: 3 }),
    headDim: fc.constantFrom(8, 16, 24),
    numLayers: fc.integer({ min: 1, max: 3 }),
    vocabSize: fc.integer({ min: 36, max: 101 }),
    intermediateSize: fc.integer({ min: 1, max: 70 }),
  })
  .map((drawn) => ({ ...drawn, numHeads: drawn.numKvHeads * drawn.groupSize }));

export type Sizes = typeof sizes extends fc.Arbitrary<infer T> ? T : never;

/** Field names of Llama, for heads that fill the hidden size. */
export function llamaNames({
  numHeads,
  numKvHeads,
  headDim,
  numLayers,
  vocabSize,
  intermediateSize,
}: Sizes): HFConfig {
  return {
    vocab_size: vocabSize,
    hidden_size: numHeads * headDim,
    intermediate_size: intermediateSize,
    num_hidden_layers: numLayers,
    num_attention_heads: numHeads,
    num_key_value_heads: numKvHeads,
    max_position_embeddings: 64,
  };
}

/** Field names of GPT-2. */
function gpt2Names({ numHeads, headDim, numLayers, vocabSize, intermediateSize }: Sizes): HFConfig {
  return {
    vocab_size: vocabSize,
    n_embd: numHeads * headDim,
    n_inner: intermediateSize,
    n_layer: numLayers,
    n_head: numHeads,
    n_positions: 64,
  };
}

export function family(
  architecture: string,
  names: (sizes: Sizes) => HFConfig,
  switches: Readonly<Record<string, fc.Arbitrary<unknown>>>,
): readonly [string, fc.Arbitrary<HFConfig>] {
  const config = fc
    .tuple(sizes, fc.record({ tie_word_embeddings: bool, ...switches }))
    .map(([drawn, chosen]) => ({ architectures: [architecture], ...names(drawn), ...chosen }));
  return [architecture, config];
}

export const ownHiddenSize = (drawn: Sizes): HFConfig => ({
  ...llamaNames(drawn),
  hidden_size: 192,
  head_dim: drawn.headDim,
});
const window = fc.constantFrom(null, 1, 3, 16);
const share = fc.constantFrom(0.25, 0.5, 1);

export const SMALL_CONFIGS: readonly (readonly [string, fc.Arbitrary<HFConfig>])[] = [
  family('LlamaForCausalLM', ownHiddenSize, { attention_bias: bool, mlp_bias: bool, hidden_act: kind }),
  family('MistralForCausalLM', ownHiddenSize, { sliding_window: window }),
  family('Qwen2ForCausalLM', llamaNames, {
    use_sliding_window: bool,
    sliding_window: window,
    max_window_layers: fc.integer({ min: 0, max: 3 }),
  }),
  family('Qwen3ForCausalLM', ownHiddenSize, { attention_bias: bool }),
  family('GemmaForCausalLM', ownHiddenSize, { attention_bias: bool }),
  family('Gemma2ForCausalLM', ownHiddenSize, { sliding_window: window, attention_bias: bool }),
  family('Gemma3ForCausalLM', ownHiddenSize, {
    sliding_window: window,
    sliding_window_pattern: fc.integer({ min: 1, max: 3 }),
  }),
  family('PhiForCausalLM', llamaNames, { qk_layernorm: bool, partial_rotary_factor: share }),
  family('Phi3ForCausalLM', llamaNames, { sliding_window: window, partial_rotary_factor: share }),
  family('GlmForCausalLM', ownHiddenSize, { attention_bias: bool, partial_rotary_factor: share }),
  family('GraniteForCausalLM', llamaNames, {
    attention_bias: bool,
    mlp_bias: bool,
    residual_multiplier: fc.constantFrom(0.22, 1),
    logits_scaling: fc.constantFrom(1, 8),
  }),
  family('Olmo2ForCausalLM', llamaNames, { attention_bias: bool }),
  family('CohereForCausalLM', llamaNames, { attention_bias: bool, use_qk_norm: bool }),
  family('StableLmForCausalLM', llamaNames, {
    use_qkv_bias: bool,
    qk_layernorm: bool,
    use_parallel_residual: bool,
    partial_rotary_factor: share,
  }),
  family('Starcoder2ForCausalLM', llamaNames, { use_bias: bool, sliding_window: window }),
  family('InternLMForCausalLM', llamaNames, { bias: bool }),
  family('InternLM2ForCausalLM', llamaNames, { bias: bool }),
  family('BaichuanForCausalLM', baichuanNames, {}),
  family('ChatGLMModel', chatglmNames, {
    add_qkv_bias: bool,
    add_bias_linear: bool,
    multi_query_attention: fc.constant(true),
  }),
  family('GPTNeoXForCausalLM', neoxNames, {
    attention_bias: bool,
    use_parallel_residual: bool,
    partial_rotary_factor: share,
    hidden_act: kind,
  }),
  family('GPT2LMHeadModel', gpt2Names, { scale_attn_by_inverse_layer_idx: bool, activation_function: kind }),
  family('GPTBigCodeForCausalLM', gpt2Names, { multi_query: bool }),
  family('GPTJForCausalLM', gpt2Names, { rotary_dim: fc.constantFrom(2, 4, 8) }),
  family('FalconForCausalLM', falconNames, {
    alibi: bool,
    bias: bool,
    multi_query: bool,
    parallel_attn: bool,
    num_ln_in_parallel_attn: fc.constantFrom(null, 1, 2),
  }),
  family('MptForCausalLM', mptNames, {
    no_bias: bool,
    attn_config: fc.record({
      alibi_bias_max: fc.constantFrom(8, 16),
      clip_qkv: fc.constantFrom(null, 0.5),
      qk_ln: bool,
    }),
  }),
  family('BloomForCausalLM', bloomNames, {}),
  family('OPTForCausalLM', optNames, {
    do_layer_norm_before: bool,
    enable_bias: bool,
    word_embed_proj_dim: fc.constantFrom(null, 20),
  }),
];

function without(config: HFConfig, ...fields: readonly string[]): HFConfig {
  return Object.fromEntries(Object.entries(config).filter(([field]) => !fields.includes(field)));
}

function neoxNames(drawn: Sizes): HFConfig {
  return without(llamaNames(drawn), 'num_key_value_heads');
}

/** An odd number of layers means the kind with ALiBi. */
function baichuanNames(drawn: Sizes): HFConfig {
  const names = neoxNames(drawn);
  return drawn.numLayers % 2 === 0 ? names : without(names, 'max_position_embeddings');
}

function chatglmNames({
  numHeads,
  numKvHeads,
  headDim,
  numLayers,
  vocabSize,
  intermediateSize,
}: Sizes): HFConfig {
  return {
    padded_vocab_size: vocabSize,
    hidden_size: numHeads * headDim,
    ffn_hidden_size: intermediateSize,
    num_layers: numLayers,
    num_attention_heads: numHeads,
    multi_query_group_num: numKvHeads,
    kv_channels: headDim,
    seq_length: 64,
  };
}

/** Several heads of keys and values are the new architecture's. */
function falconNames(drawn: Sizes): HFConfig {
  const { numHeads, numKvHeads, headDim, numLayers, vocabSize, intermediateSize } = drawn;
  return {
    vocab_size: vocabSize,
    hidden_size: numHeads * headDim,
    ffn_hidden_size: intermediateSize,
    num_hidden_layers: numLayers,
    num_attention_heads: numHeads,
    ...(numKvHeads < numHeads && { new_decoder_architecture: true, num_kv_heads: numKvHeads }),
  };
}

function mptNames({ numHeads, headDim, numLayers, vocabSize }: Sizes): HFConfig {
  const d_model = numHeads * headDim;
  return { vocab_size: vocabSize, d_model, n_heads: numHeads, n_layers: numLayers, expansion_ratio: 2 };
}

function bloomNames({ numHeads, headDim, numLayers, vocabSize }: Sizes): HFConfig {
  return {
    vocab_size: vocabSize,
    n_embed: numHeads * headDim,
    num_attention_heads: numHeads,
    n_layer: numLayers,
  };
}

function optNames({ numHeads, headDim, numLayers, vocabSize, intermediateSize }: Sizes): HFConfig {
  return {
    vocab_size: vocabSize,
    hidden_size: numHeads * headDim,
    ffn_dim: intermediateSize,
    num_hidden_layers: numLayers,
    num_attention_heads: numHeads,
    max_position_embeddings: 64,
  };
}
