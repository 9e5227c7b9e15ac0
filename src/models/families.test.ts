// The families' configs: old and new spellings mean the same, what is not implemented is refused by its name, published
// names of tensors are found.
import { describe, expect, it } from 'vitest';
import type { Graph } from '../ir/graph.ts';
import type { HFConfig } from './model-definition.ts';
import { findModel } from './registry.ts';

const llamaSizes: HFConfig = {
  vocab_size: 100,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  max_position_embeddings: 64,
};

const gpt2Sizes: HFConfig = { vocab_size: 100, n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64 };
const mptSizes: HFConfig = { vocab_size: 100, d_model: 32, n_heads: 4, n_layers: 2 };

function config(architecture: string, fields: HFConfig = {}, sizes: HFConfig = llamaSizes): HFConfig {
  return { architectures: [architecture], model_type: 'test', ...sizes, ...fields };
}

function graphOf(given: HFConfig): Graph {
  return findModel(given).buildGraph(given, { kvDType: 'bfloat16', maxModelLen: 64 });
}

function windowsOf(given: HFConfig): readonly (number | null)[] {
  return graphOf(given).kvCaches.map((cache) => cache.window);
}

/** Angles of the first rope of each layer. */
function anglesOf(given: HFConfig): readonly unknown[] {
  const ropes = graphOf(given).nodes.filter((node) => node.op === 'rope');
  return ropes.filter((_, i) => i % 2 === 0).map((node) => node.attributes['rope']);
}

describe('spellings', () => {
  it.each([
    [
      'gpt_neox of before',
      config('GPTNeoXForCausalLM', { rotary_pct: 0.5, rotary_emb_base: 5000 }),
      config('GPTNeoXForCausalLM', { rope_parameters: { rope_theta: 5000, partial_rotary_factor: 0.5 } }),
    ],
    [
      'gemma3 of before',
      config('Gemma3ForCausalLM', { rope_theta: 1e5, rope_local_base_freq: 7000, sliding_window_pattern: 2 }),
      config('Gemma3ForCausalLM', {
        rope_parameters: {
          full_attention: { rope_type: 'default', rope_theta: 1e5 },
          sliding_attention: { rope_type: 'default', rope_theta: 7000 },
        },
        layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'],
      }),
    ],
    [
      'falcon of before',
      config('RWForCausalLM', {
        n_layer: 4,
        n_head: 4,
        n_head_kv: 2,
        new_decoder_architecture: true,
        intermediate_size: null,
      }),
      config('FalconForCausalLM', {
        num_kv_heads: 2,
        new_decoder_architecture: true,
        intermediate_size: null,
      }),
    ],
    [
      'bloom of the small models',
      config('BloomForCausalLM', {}, { vocab_size: 100, n_embed: 32, num_attention_heads: 4, n_layer: 2 }),
      config('BloomForCausalLM', {}, { vocab_size: 100, hidden_size: 32, n_head: 4, n_layer: 2 }),
    ],
    [
      'phi3 of the first long contexts',
      config('Phi3ForCausalLM', {
        original_max_position_embeddings: 32,
        rope_scaling: { type: 'su', short_factor: [1, 1, 1, 1], long_factor: [2, 2, 2, 2] },
      }),
      config('Phi3ForCausalLM', {
        original_max_position_embeddings: 32,
        rope_scaling: { type: 'longrope', short_factor: [1, 1, 1, 1], long_factor: [2, 2, 2, 2] },
      }),
    ],
    ['mpt of its authors', config('MPTForCausalLM', {}, mptSizes), config('MptForCausalLM', {}, mptSizes)],
  ])('%s', (_, old, now) => {
    expect(graphOf(old)).toEqual(graphOf(now));
  });
});

describe('windows', () => {
  it.each([
    ['gemma2: every second layer', config('Gemma2ForCausalLM', { sliding_window: 8 }), [8, null, 8, null]],
    [
      'gemma3: all but every third',
      config('Gemma3ForCausalLM', { sliding_window: 8, sliding_window_pattern: 3 }),
      [8, 8, null, 8],
    ],
    [
      'qwen2: later layers',
      config('Qwen2ForCausalLM', { use_sliding_window: true, sliding_window: 8, max_window_layers: 2 }),
      [null, null, 8, 8],
    ],
    [
      'qwen2: none unless switched on',
      config('Qwen2ForCausalLM', { sliding_window: 8 }),
      [null, null, null, null],
    ],
    [
      'starcoder2',
      config('Starcoder2ForCausalLM', { sliding_window: 8, num_key_value_heads: 2 }),
      [8, 8, 8, 8],
    ],
  ])('%s', (_, given, windows) => {
    expect(windowsOf(given)).toEqual(windows);
  });

  it('gemma3 turns windowed layers by other angles', () => {
    const angles = anglesOf(config('Gemma3ForCausalLM', { sliding_window_pattern: 2 }));
    expect(angles[0]).toEqual(angles[2]);
    expect(angles[0]).not.toEqual(angles[1]);
    expect(angles[1]).toEqual(angles[3]);
  });

  it('layer_types of another length are refused', () => {
    const given = config('Gemma2ForCausalLM', { layer_types: ['full_attention'] });
    expect(() => graphOf(given)).toThrow('layer_types lists 1 layers, but the model has 4');
  });
});

describe('refusals', () => {
  it.each([
    [
      'bloom',
      config(
        'BloomForCausalLM',
        { apply_residual_connection_post_layernorm: true },
        { vocab_size: 100, hidden_size: 32, n_head: 4, n_layer: 2 },
      ),
      'apply_residual_connection_post_layernorm',
    ],
    [
      'mpt without ALiBi',
      config('MptForCausalLM', { attn_config: { alibi: false } }, mptSizes),
      'attn_config.alibi',
    ],
    [
      'mpt, another attention',
      config('MptForCausalLM', { attn_config: { attn_type: 'multiquery_attention' } }, mptSizes),
      'attn_config.attn_type',
    ],
    ['mpt, an unknown field', config('MptForCausalLM', { attn_config: { rope: true } }, mptSizes), 'rope'],
    ['mpt, scaled logits', config('MptForCausalLM', { logit_scale: 0.5 }, mptSizes), 'logit_scale: 0.5'],
    [
      'opt, norms without weights',
      config('OPTForCausalLM', {
        ffn_dim: 64,
        intermediate_size: null,
        layer_norm_elementwise_affine: false,
      }),
      'layer_norm_elementwise_affine',
    ],
    [
      'gptj, unscaled scores',
      config('GPTJForCausalLM', { rotary_dim: 8, scale_attn_weights: false }, gpt2Sizes),
      'scale_attn_weights',
    ],
    ['gemma, another activation', config('GemmaForCausalLM', { hidden_act: 'relu' }), 'hidden_act'],
    ['gemma, a window', config('GemmaForCausalLM', { sliding_window: 4096 }), 'sliding_window: 4096'],
    [
      'gemma2, both directions',
      config('Gemma2ForCausalLM', { use_bidirectional_attention: true }),
      'use_bidirectional_attention: true',
    ],
    [
      'qwen2, an unknown layer type',
      config('Qwen2ForCausalLM', { layer_types: ['linear_attention'] }),
      'layer_types.0',
    ],
    ['chatglm, another norm', config('ChatGLMModel', { rmsnorm: false }), 'rmsnorm'],
    ['cohere, a window', config('CohereForCausalLM', { sliding_window: 4096 }), 'sliding_window: 4096'],
  ])('%s', (_, given, field) => {
    expect(() => graphOf(given)).toThrow(
      expect.objectContaining({
        code: 'unsupported_model',
        message: expect.stringContaining(field) as string,
      }),
    );
  });
});

describe('published tensors', () => {
  const namesOf = (architecture: string, tensor: string): readonly string[] =>
    findModel({ architectures: [architecture] }).tensorNames!(tensor);

  it.each([
    ['BloomForCausalLM', 'transformer.h.0.ln.weight', 'h.0.ln.weight'],
    ['BloomForCausalLM', 'transformer.word_embeddings.weight', 'word_embeddings.weight'],
    ['OPTForCausalLM', 'model.decoder.layers.0.fc1.weight', 'decoder.layers.0.fc1.weight'],
    ['FalconForCausalLM', 'transformer.word_embeddings.weight', 'lm_head.weight'],
    ['GPTNeoXForCausalLM', 'gpt_neox.embed_in.weight', 'embed_out.weight'],
    ['ChatGLMModel', 'transformer.embedding.word_embeddings.weight', 'transformer.output_layer.weight'],
  ])('%s finds %s as %s', (architecture, canonical, published) => {
    expect(namesOf(architecture, canonical)[0]).toBe(canonical);
    expect(namesOf(architecture, canonical)).toContain(published);
  });

  it.each([
    ['GPTNeoXForCausalLM', 'gpt_neox.layers.0.attention.masked_bias'],
    ['GPTNeoXForCausalLM', 'gpt_neox.layers.0.attention.rotary_emb.inv_freq'],
    ['GPTJForCausalLM', 'transformer.h.0.attn.bias'],
    ['ChatGLMModel', 'transformer.rotary_pos_emb.inv_freq'],
    ['BaichuanForCausalLM', 'model.future_mask'],
  ])('%s ignores %s', (architecture, tensor) => {
    const given = config(architecture);
    expect(findModel(given).isBuffer!(tensor, given)).toBe(true);
    expect(findModel(given).isBuffer!('model.layers.0.self_attn.q_proj.bias', given)).toBe(false);
  });

  it('opt skips the two positions before the first', () => {
    const { parameters } = graphOf(config('OPTForCausalLM', { ffn_dim: 64, intermediate_size: null }));
    const positions = parameters.find(({ name }) => name.includes('embed_positions'))!;
    expect(positions.value.type.shape).toEqual([64, 32]);
    expect(positions.parts).toMatchObject([{ tensorShape: [66, 32], rowStart: 2, rowCount: 64 }]);
  });

  it('falcon reads each group of heads as its queries, its key, its value', () => {
    const given = config('FalconForCausalLM', {
      new_decoder_architecture: true,
      num_kv_heads: 2,
      intermediate_size: null,
    });
    const { parameters } = graphOf(given);
    const rows = parameters
      .filter(({ name }) => name.startsWith('transformer.h.0.self_attention.query_key_value'))
      .map(({ parts }) => parts.map((part) => [part.rowStart, part.rowCount]));
    // Two groups of two queries, a key and a value, 8 rows each.
    expect(rows).toEqual([
      [
        [0, 16],
        [32, 16],
      ],
      [
        [16, 8],
        [48, 8],
      ],
      [
        [24, 8],
        [56, 8],
      ],
    ]);
  });
});
