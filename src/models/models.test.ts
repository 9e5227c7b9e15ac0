import { describe, expect, it } from 'vitest';
import type { Graph, Node } from '../ir/graph.ts';
import { isNeedletailError } from '../util/errors.ts';
import type { HFConfig } from './model-definition.ts';
import { findPreset, presetNames } from './presets.ts';
import { findModel, supportedArchitectures } from './registry.ts';

const llama: HFConfig = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 100,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
};
const mistral: HFConfig = { ...llama, architectures: ['MistralForCausalLM'], model_type: 'mistral' };
const gpt2: HFConfig = {
  architectures: ['GPT2LMHeadModel'],
  model_type: 'gpt2',
  vocab_size: 100,
  n_embd: 32,
  n_layer: 2,
  n_head: 4,
  n_positions: 64,
};

function graphOf(config: HFConfig): Graph {
  return findModel(config).buildGraph(config, { kvDType: 'bfloat16', maxModelLen: 64 });
}

function shapesOf(config: HFConfig): Record<string, unknown> {
  return Object.fromEntries(graphOf(config).parameters.map(({ name, value }) => [name, value.type.shape]));
}

function nodesOf(config: HFConfig, op: string): readonly Node[] {
  return graphOf(config).nodes.filter((node) => node.op === op);
}

function codeOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    if (isNeedletailError(error)) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'no error';
}

describe('registry', () => {
  it('finds a model by architecture, or by model_type where none is named', () => {
    expect(findModel(mistral).modelType).toBe('mistral');
    expect(findModel({ model_type: 'gpt2' }).modelType).toBe('gpt2');
  });

  it.each([[{ architectures: ['FooForCausalLM'], model_type: 'llama' }], [{ model_type: 'foo' }], [{}]])(
    'refuses %o with the list of what it can run',
    (config) => {
      const message = codeOf(() => findModel(config));
      expect(message).toMatch(/^unsupported_model/);
      for (const name of supportedArchitectures()) expect(message).toContain(name);
    },
  );
});

describe('llama', () => {
  it('names parameters as Hugging Face does', () => {
    expect(shapesOf({ ...llama, num_hidden_layers: 1, attention_bias: true })).toEqual({
      'model.embed_tokens.weight': [100, 32],
      'model.layers.0.input_layernorm.weight': [32],
      'model.layers.0.self_attn.q_proj.weight': [32, 32],
      'model.layers.0.self_attn.q_proj.bias': [32],
      'model.layers.0.self_attn.k_proj.weight': [16, 32],
      'model.layers.0.self_attn.k_proj.bias': [16],
      'model.layers.0.self_attn.v_proj.weight': [16, 32],
      'model.layers.0.self_attn.v_proj.bias': [16],
      'model.layers.0.self_attn.o_proj.weight': [32, 32],
      'model.layers.0.self_attn.o_proj.bias': [32],
      'model.layers.0.post_attention_layernorm.weight': [32],
      'model.layers.0.mlp.gate_proj.weight': [64, 32],
      'model.layers.0.mlp.up_proj.weight': [64, 32],
      'model.layers.0.mlp.down_proj.weight': [32, 64],
      'model.norm.weight': [32],
      'lm_head.weight': [100, 32],
    });
  });

  it('gives every head its own keys and values where the config does not say', () => {
    const { num_key_value_heads: _, ...config } = llama;
    expect(shapesOf(config)).toMatchObject({ 'model.layers.0.self_attn.k_proj.weight': [32, 32] });
  });

  it('takes head_dim from the config', () => {
    const shapes = shapesOf({ ...llama, head_dim: 16 });
    expect(shapes).toMatchObject({
      'model.layers.1.self_attn.q_proj.weight': [64, 32],
      'model.layers.1.self_attn.o_proj.weight': [32, 64],
    });
  });

  it('shares the table of tied embeddings, and counts it once', () => {
    const tied = { ...llama, tie_word_embeddings: true };
    expect(shapesOf(tied)).not.toHaveProperty('lm_head.weight');
    const model = findModel(tied);
    expect(model.facts(llama).numParameters - model.facts(tied).numParameters).toBe(100 * 32);
    expect(model.tensorNames?.('model.embed_tokens.weight')).toContain('lm_head.weight');
  });

  it('labels nodes with their place in the model', () => {
    expect(nodesOf(llama, 'attention').map((node) => node.label)).toEqual([
      'model.layers.0.self_attn',
      'model.layers.1.self_attn',
    ]);
  });

  it.each([
    [
      'an unknown activation',
      { hidden_act: 'xielu' },
      'unsupported_model: activation xielu is not implemented',
    ],
    ['a field it does not know', { attn_logit_softcapping: 30 }, 'attn_logit_softcapping: 30'],
    ['quantized weights', { quantization_config: { quant_method: 'awq' } }, 'quantization_config'],
    ['an unknown RoPE', { rope_scaling: { type: 'mrope' } }, 'RoPE scaling "mrope" is not implemented'],
    [
      'a missing size',
      { hidden_size: undefined },
      'bad_checkpoint: config.json of a llama model: hidden_size',
    ],
    [
      'a broken size',
      { num_attention_heads: -4 },
      'bad_checkpoint: config.json of a llama model: num_attention_heads',
    ],
    [
      'heads that do not divide',
      { hidden_size: 30 },
      'hidden size 30 is not a multiple of the number of heads 4',
    ],
    ['heads that do not group', { num_key_value_heads: 3 }, 'numHeads 4 is not a multiple of numKvHeads 3'],
    [
      'an odd head_dim',
      { head_dim: 7 },
      'bad_checkpoint: the sizes in config.json of a llama model do not fit',
    ],
    [
      'layers without end',
      { num_hidden_layers: 1e9 },
      'bad_checkpoint: config.json of a llama model: num_hidden_layers',
    ],
  ])('refuses %s', (_, field, message) => {
    expect(codeOf(() => graphOf({ ...llama, ...field }))).toContain(message);
  });

  it('accepts fields that mean nothing for inference, and unknown ones that are off', () => {
    const extra = {
      torch_dtype: 'bfloat16',
      attention_dropout: 0.1,
      new_thing: null,
      other_thing: false,
      list: [],
    };
    expect(codeOf(() => graphOf({ ...llama, ...extra }))).toBe('no error');
  });

  it('ignores frequencies that old checkpoints carry', () => {
    const model = findModel(llama);
    expect(model.isBuffer?.('model.layers.0.self_attn.rotary_emb.inv_freq', llama)).toBe(true);
    expect(model.isBuffer?.('model.layers.0.self_attn.q_proj.weight', llama)).toBe(false);
  });
});

describe('mistral', () => {
  it.each([
    [{ sliding_window: 16 }, 16],
    [{ sliding_window: null }, null],
    [{}, 4096],
  ])('%o looks back %s tokens', (field, window) => {
    const config = { ...mistral, ...field };
    expect(nodesOf(config, 'attention').map((node) => node.attributes['window'])).toEqual([window, window]);
    expect(graphOf(config).kvCaches.map((cache) => cache.window)).toEqual([window, window]);
  });

  it('has no biases', () => {
    expect(codeOf(() => graphOf({ ...mistral, attention_bias: true }))).toContain('attention_bias: true');
  });
});

describe('gpt2', () => {
  it('reads queries, keys and values as thirds of one transposed tensor', () => {
    const { parameters } = graphOf(gpt2);
    const parts = parameters.filter(({ name }) => name.startsWith('transformer.h.0.attn.c_attn.weight'));
    expect(parts.flatMap((parameter) => parameter.parts)).toEqual(
      [0, 32, 64].map((rowStart) => ({
        name: `transformer.h.0.attn.c_attn.weight[${rowStart}:${rowStart + 32}]`,
        tensor: 'transformer.h.0.attn.c_attn.weight',
        tensorShape: [32, 96],
        transpose: true,
        rowStart,
        rowCount: 32,
        rowStep: 1,
        columnStart: 0,
        columnCount: 32,
      })),
    );
  });

  it.each([
    [{}, [Math.SQRT1_2 / 2, Math.SQRT1_2 / 2]],
    [{ scale_attn_weights: false }, [1, 1]],
    [{ scale_attn_by_inverse_layer_idx: true }, [Math.SQRT1_2 / 2, Math.SQRT1_2 / 4]],
  ])('%o scales scores by %o', (field, scales) => {
    nodesOf({ ...gpt2, ...field }, 'attention').forEach((node, layer) => {
      expect(node.attributes['scale']).toBeCloseTo(scales[layer], 12);
    });
  });

  it.each([
    [{}, 'geluTanh', 128],
    [{ activation_function: 'gelu', n_inner: 48 }, 'gelu', 48],
  ])('%o has a feed-forward of %s, %i wide', (field, kind, width) => {
    const config = { ...gpt2, ...field };
    expect(nodesOf(config, 'activation')[0].attributes).toEqual({ kind });
    expect(shapesOf(config)).toMatchObject({ 'transformer.h.1.mlp.c_fc.weight': [width, 32] });
  });

  it('may untie its embeddings', () => {
    expect(shapesOf(gpt2)).not.toHaveProperty('lm_head.weight');
    expect(shapesOf({ ...gpt2, tie_word_embeddings: false })).toHaveProperty('lm_head.weight');
  });

  it('knows the names of the first checkpoints', () => {
    const model = findModel(gpt2);
    expect(model.tensorNames?.('transformer.h.0.ln_1.weight')).toContain('h.0.ln_1.weight');
    expect(model.isBuffer?.('h.0.attn.bias', gpt2)).toBe(true);
    expect(model.isBuffer?.('transformer.h.0.attn.masked_bias', gpt2)).toBe(true);
    expect(model.isBuffer?.('h.0.attn.c_attn.bias', gpt2)).toBe(false);
  });

  it('refuses cross attention', () => {
    expect(codeOf(() => graphOf({ ...gpt2, add_cross_attention: true }))).toContain(
      'add_cross_attention: true',
    );
  });
});

describe('facts', () => {
  it.each([
    ['llama-2-7b', 6_738_415_616, 4096],
    ['llama-3.1-8b', 8_030_261_248, 131_072],
    ['gpt2', 124_439_808, 1024],
  ])('%s has %i parameters', (preset, numParameters, maxPositions) => {
    const { config } = findPreset(preset)!;
    expect(findModel(config).facts(config)).toMatchObject({ numParameters, maxPositions });
  });

  it('every preset is a model that can be built', () => {
    for (const name of presetNames())
      expect(
        codeOf(() => graphOf(findPreset(name)!.config)),
        name,
      ).toBe('no error');
  });
});
