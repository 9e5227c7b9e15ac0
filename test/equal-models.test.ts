// Kinds that test/fixtures/reference has no outputs for: the same weights re-expressed in a kind that it has, or in one
// whose graph is changed in the one respect that differs, must give the same logits.
import { describe, expect, it } from 'vitest';
import type { Graph } from '../src/ir/graph.ts';
import type { HFConfig } from '../src/models/model-definition.ts';
import { findModel } from '../src/models/registry.ts';
import { decodeTensor } from '../src/tensor/codes.ts';
import { encodeFloats } from '../src/tensor/dtype.ts';
import type { TensorSource } from '../src/tensor/tensor-source.ts';
import { interpretTwoSteps, randomTensors } from './support/interpret.ts';

type ReadTensor = (name: string) => Float32Array;

const HEAD_DIM = 16;
const HIDDEN = 64;
const NUM_KV_HEADS = 2;
const GROUP_SIZE = 2;

const sizes = {
  vocab_size: 48,
  hidden_size: HIDDEN,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: NUM_KV_HEADS * GROUP_SIZE,
  max_position_embeddings: 64,
  tie_word_embeddings: false,
};
const llama = {
  architectures: ['LlamaForCausalLM'],
  ...sizes,
  num_key_value_heads: NUM_KV_HEADS,
  rms_norm_eps: 1e-5,
};
const neox = { architectures: ['GPTNeoXForCausalLM'], ...sizes, hidden_act: 'gelu' };

function graphOf(config: HFConfig): Graph {
  return findModel(config).buildGraph(config, { kvDType: 'float32', maxModelLen: 64 });
}

function tensorsOf(config: HFConfig): ReadTensor {
  return randomTensors(graphOf(config));
}

/** Both graphs on their tensors give the same logits, up to the order of sums. */
function expectEqual(a: readonly [Graph, ReadTensor], b: readonly [Graph, ReadTensor]): void {
  const [expected, actual] = [interpretTwoSteps(...a), interpretTwoSteps(...b)];
  expected.forEach((logits, step) => {
    expect(Math.max(...logits.map(Math.abs))).toBeGreaterThan(0.01);
    expect(actual[step].length).toBe(logits.length);
    logits.forEach((value, i) => expect(actual[step][i]).toBeCloseTo(value, 4));
  });
}

function concat(...parts: readonly Float32Array[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

/** Rows `[start, start + count)` heads of a tensor `[heads · headDim, …]`. */
function heads(tensor: Float32Array, numHeads: number, start: number, count: number): Float32Array {
  const size = tensor.length / numHeads;
  return tensor.slice(start * size, (start + count) * size);
}

/** For each head of keys and values its queries, its key, its value. */
function grouped(
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  numKvHeads: number,
  groupSize: number,
): Float32Array {
  const parts = Array.from({ length: numKvHeads }, (_, group) => [
    heads(q, numKvHeads * groupSize, group * groupSize, groupSize),
    heads(k, numKvHeads, group, 1),
    heads(v, numKvHeads, group, 1),
  ]);
  return concat(...parts.flat());
}

/** Reads a model's tensors from another's, by rules from its names to their values; unnamed ones are the same. */
function renamed(rules: readonly (readonly [RegExp, (...groups: string[]) => Float32Array])[]): ReadTensor {
  return (name) => {
    for (const [pattern, values] of rules) {
      const match = pattern.exec(name);
      if (match) return values(...match.slice(1));
    }
    throw new Error(`no rule for ${name}`);
  };
}

/** The graph with attributes of one op changed. */
function changed(graph: Graph, op: string, change: object): Graph {
  const nodes = graph.nodes.map((node) =>
    node.op === op ? { ...node, attributes: { ...node.attributes, ...change } } : node,
  );
  return { ...graph, nodes };
}

/** The graph without rotation, with ALiBi of 4 heads: 2^−2, 2^−4, 2^−6, 2^−8. */
function withAlibi(graph: Graph, factor = 1): Graph {
  const [rope] = graph.nodes.filter((node) => node.op === 'rope');
  const still = {
    ...(rope?.attributes['rope'] as object),
    inverseFrequencies: new Array(HEAD_DIM / 2).fill(0),
  };
  const alibiSlopes = [2, 4, 6, 8].map((i) => factor * 2 ** -i);
  return changed(changed(graph, 'rope', { rope: still }), 'attention', { alibiSlopes });
}

describe('relatives of llama', () => {
  it('internlm is llama with biases', () => {
    const config = { ...sizes, architectures: ['InternLMForCausalLM'], rms_norm_eps: 1e-5, bias: true };
    const { num_key_value_heads: _, ...plain } = llama;
    const equal = { ...plain, attention_bias: true };
    expectEqual([graphOf(equal), tensorsOf(equal)], [graphOf(config), tensorsOf(equal)]);
  });

  it('internlm spells dynamic angles its own way', () => {
    const config = { ...sizes, architectures: ['InternLMForCausalLM'], max_position_embeddings: 32 };
    const spelled = { ...config, rotary: { base: 5000, type: 'dynamic', scaling_factor: 2 } };
    const plain = { ...config, rope_theta: 5000, rope_scaling: { type: 'dynamic', factor: 2 } };
    expect(graphOf(spelled)).toEqual(graphOf(plain));
  });

  it('gemma is llama with scaled token vectors, a head that is not, and norm weights that lack 1', () => {
    const config = {
      ...llama,
      architectures: ['GemmaForCausalLM'],
      head_dim: HEAD_DIM,
      hidden_act: 'gelu',
      tie_word_embeddings: true,
    };
    const equal = { ...llama, head_dim: HEAD_DIM, hidden_act: 'gelu_pytorch_tanh' };
    const read = tensorsOf(config);
    const expressed = renamed([
      [/embed_tokens/, () => read('model.embed_tokens.weight').map((value) => value * Math.sqrt(HIDDEN))],
      [/lm_head/, () => read('model.embed_tokens.weight')],
      [/(.*norm\.weight)/, (name) => read(name).map((value) => value + 1)],
      [/(.*)/, read],
    ]);
    expectEqual([graphOf(equal), expressed], [graphOf(config), read]);
  });

  it('internlm2 fuses queries, keys and values group by group', () => {
    const config = { ...llama, architectures: ['InternLM2ForCausalLM'], bias: false };
    const read = tensorsOf(llama);
    const layer = (i: string, rest: string): Float32Array => read(`model.layers.${i}.${rest}.weight`);
    const packed = renamed([
      [/^model\.tok_embeddings/, () => read('model.embed_tokens.weight')],
      [/^output/, () => read('lm_head.weight')],
      [/^model\.norm/, () => read('model.norm.weight')],
      [
        /(\d+)\.attention\.wqkv/,
        (i) =>
          grouped(
            layer(i, 'self_attn.q_proj'),
            layer(i, 'self_attn.k_proj'),
            layer(i, 'self_attn.v_proj'),
            NUM_KV_HEADS,
            GROUP_SIZE,
          ),
      ],
      [/(\d+)\.attention\.wo/, (i) => layer(i, 'self_attn.o_proj')],
      [/(\d+)\.feed_forward\.w1/, (i) => layer(i, 'mlp.gate_proj')],
      [/(\d+)\.feed_forward\.w3/, (i) => layer(i, 'mlp.up_proj')],
      [/(\d+)\.feed_forward\.w2/, (i) => layer(i, 'mlp.down_proj')],
      [/(\d+)\.attention_norm/, (i) => layer(i, 'input_layernorm')],
      [/(\d+)\.ffn_norm/, (i) => layer(i, 'post_attention_layernorm')],
    ]);
    expectEqual([graphOf(llama), read], [graphOf(config), packed]);
  });

  it('chatglm is glm with fused tensors under other names', () => {
    const glm = { ...llama, architectures: ['GlmForCausalLM'], head_dim: HEAD_DIM, attention_bias: true };
    const config = {
      architectures: ['ChatGLMModel'],
      padded_vocab_size: 48,
      hidden_size: HIDDEN,
      ffn_hidden_size: 40,
      num_layers: 2,
      num_attention_heads: 4,
      multi_query_attention: true,
      multi_query_group_num: NUM_KV_HEADS,
      kv_channels: HEAD_DIM,
      layernorm_epsilon: 1e-5,
      seq_length: 64,
      add_qkv_bias: true,
    };
    const read = tensorsOf(glm);
    const layer = (i: string, rest: string): Float32Array => read(`model.layers.${i}.${rest}`);
    const stacked = (i: string, part: string): Float32Array =>
      concat(...['q', 'k', 'v'].map((name) => layer(i, `self_attn.${name}_proj.${part}`)));
    const packed = renamed([
      [/word_embeddings/, () => read('model.embed_tokens.weight')],
      [/output_layer/, () => read('lm_head.weight')],
      [/final_layernorm/, () => read('model.norm.weight')],
      [/(\d+)\.self_attention\.query_key_value\.(\w+)/, stacked],
      [/(\d+)\.self_attention\.dense/, (i) => layer(i, 'self_attn.o_proj.weight')],
      [/(\d+)\.mlp\.dense_h_to_4h/, (i) => layer(i, 'mlp.gate_up_proj.weight')],
      [/(\d+)\.mlp\.dense_4h_to_h/, (i) => layer(i, 'mlp.down_proj.weight')],
      [/(\d+\.(?:input|post_attention)_layernorm)/, (norm) => read(`model.layers.${norm}.weight`)],
    ]);
    expectEqual([graphOf(glm), read], [graphOf(config), packed]);
  });

  const { num_key_value_heads: _, ...multiHead } = llama;
  const baichuanTensors = (read: ReadTensor): ReadTensor =>
    renamed([
      [
        /^(.*)W_pack\.weight/,
        (at) => concat(...['q', 'k', 'v'].map((name) => read(`${at}${name}_proj.weight`))),
      ],
      [/(.*)/, read],
    ]);

  it('baichuan stacks queries, keys and values', () => {
    const config = { ...multiHead, architectures: ['BaichuanForCausalLM'] };
    const read = tensorsOf(multiHead);
    expectEqual([graphOf(multiHead), read], [graphOf(config), baichuanTensors(read)]);
  });

  it('baichuan without a limit of positions has ALiBi', () => {
    const { max_position_embeddings: __, ...config } = {
      ...multiHead,
      architectures: ['BaichuanForCausalLM'],
    };
    const read = tensorsOf(multiHead);
    expectEqual([withAlibi(graphOf(multiHead)), read], [graphOf(config), baichuanTensors(read)]);
  });

  it('baichuan2 norms the rows of its head', () => {
    const weight = Float32Array.of(3, 4, 0, -2);
    const source: TensorSource = {
      read: () => ({ dtype: 'bfloat16', shape: [2, 2], bytes: encodeFloats('bfloat16', weight) }),
      close: () => undefined,
    };
    const model = findModel({ architectures: ['BaichuanForCausalLM'] });
    const adapted = (vocab_size: number, name: string): number[] => {
      return [...decodeTensor(model.adaptTensors!(source, { vocab_size }).read(name))];
    };
    const normed = adapted(125_696, 'lm_head.weight');
    [0.6, 0.8, 0, -1].forEach((value, i) => expect(normed[i]).toBeCloseTo(value, 2));
    expect(adapted(125_696, 'model.norm.weight')).toEqual([...weight]);
    expect(adapted(64_000, 'lm_head.weight')).toEqual([...weight]);
  });
});

describe('relatives of gpt-neox', () => {
  it('phi is a gpt-neox whose two norms are one, with a bias on the head', () => {
    const config = {
      architectures: ['PhiForCausalLM'],
      ...sizes,
      hidden_act: 'gelu',
      partial_rotary_factor: 0.5,
    };
    const equal = { ...neox, rotary_pct: 0.5 };
    const read = tensorsOf(config);
    const silent: ReadTensor = (name) => (name === 'lm_head.bias' ? read(name).map(() => 0) : read(name));
    const layer = (i: string, rest: string): Float32Array => read(`model.layers.${i}.${rest}`);
    const fused = (i: string, part: string): Float32Array => {
      const [q, k, v] = ['q', 'k', 'v'].map((name) => layer(i, `self_attn.${name}_proj.${part}`));
      return grouped(q, k, v, 4, 1);
    };
    const packed = renamed([
      [/embed_in/, () => read('model.embed_tokens.weight')],
      [/embed_out/, () => read('lm_head.weight')],
      [/final_layer_norm\.(\w+)/, (part) => read(`model.final_layernorm.${part}`)],
      [/(\d+)\.\w+_layernorm\.(\w+)/, (i, part) => layer(i, `input_layernorm.${part}`)],
      [/(\d+)\.attention\.query_key_value\.(\w+)/, fused],
      [/(\d+)\.attention\.dense\.(\w+)/, (i, part) => layer(i, `self_attn.dense.${part}`)],
      [/(\d+)\.mlp\.dense_h_to_4h\.(\w+)/, (i, part) => layer(i, `mlp.fc1.${part}`)],
      [/(\d+)\.mlp\.dense_4h_to_h\.(\w+)/, (i, part) => layer(i, `mlp.fc2.${part}`)],
    ]);
    expectEqual([graphOf(equal), packed], [graphOf(config), silent]);
  });

  it('a gpt-neox with its branches in turn is a starcoder2 with fused projections', () => {
    const config = { ...neox, rotary_pct: 1, use_parallel_residual: false };
    const { num_attention_heads: numHeads } = sizes;
    const starcoder2 = {
      architectures: ['Starcoder2ForCausalLM'],
      ...sizes,
      num_key_value_heads: numHeads,
      hidden_act: 'gelu',
    };
    const read = tensorsOf(starcoder2);
    const layer = (i: string, rest: string): Float32Array => read(`model.layers.${i}.${rest}`);
    const fused = (i: string, part: string): Float32Array => {
      const [q, k, v] = ['q', 'k', 'v'].map((name) => layer(i, `self_attn.${name}_proj.${part}`));
      return grouped(q, k, v, 4, 1);
    };
    const packed = renamed([
      [/embed_in/, () => read('model.embed_tokens.weight')],
      [/embed_out/, () => read('lm_head.weight')],
      [/final_layer_norm\.(\w+)/, (part) => read(`model.norm.${part}`)],
      [/(\d+)\.(\w+_layernorm\.\w+)/, layer],
      [/(\d+)\.attention\.query_key_value\.(\w+)/, fused],
      [/(\d+)\.attention\.dense\.(\w+)/, (i, part) => layer(i, `self_attn.o_proj.${part}`)],
      [/(\d+)\.mlp\.dense_h_to_4h\.(\w+)/, (i, part) => layer(i, `mlp.c_fc.${part}`)],
      [/(\d+)\.mlp\.dense_4h_to_h\.(\w+)/, (i, part) => layer(i, `mlp.c_proj.${part}`)],
    ]);
    expectEqual([graphOf(starcoder2), read], [graphOf(config), packed]);
  });

  it('the falcon of the rw models is a gpt-neox with its branches in turn and ALiBi, scaled like the scores', () => {
    const { intermediate_size: ffn_hidden_size, ...rest } = sizes;
    const config = {
      architectures: ['FalconForCausalLM'],
      ...rest,
      ffn_hidden_size,
      alibi: true,
      bias: true,
      multi_query: false,
      parallel_attn: false,
    };
    const equal = { ...neox, rotary_pct: 1, use_parallel_residual: false };
    const read = tensorsOf(equal);
    const packed = renamed([
      [/word_embeddings/, () => read('gpt_neox.embed_in.weight')],
      [/lm_head/, () => read('embed_out.weight')],
      [/ln_f\.(\w+)/, (part) => read(`gpt_neox.final_layer_norm.${part}`)],
      [/(\d+)\.self_attention\.(.*)/, (i, tensor) => read(`gpt_neox.layers.${i}.attention.${tensor}`)],
      [/transformer\.h\.(.*)/, (tensor) => read(`gpt_neox.layers.${tensor}`)],
    ]);
    const scaled = withAlibi(graphOf(equal), 1 / Math.sqrt(HEAD_DIM));
    expectEqual([scaled, read], [graphOf(config), packed]);
  });
});

describe('gpt_bigcode and opt', () => {
  it('gpt_bigcode without shared heads is a gpt2 fused head by head and not transposed', () => {
    const gpt2 = {
      architectures: ['GPT2LMHeadModel'],
      vocab_size: 48,
      n_embd: HIDDEN,
      n_layer: 2,
      n_head: 4,
    };
    const config = { ...gpt2, architectures: ['GPTBigCodeForCausalLM'], multi_query: false };
    const read = tensorsOf(gpt2);
    const fusedHeads = (tensor: Float32Array): Float32Array => {
      const [q, k, v] = [0, 1, 2].map((third) => heads(tensor, 3, third, 1));
      return grouped(q, k, v, 4, 1);
    };
    const packed = renamed([
      [/(.*c_attn\.weight)/, (name) => fusedHeads(transposed(read(name), 3 * HIDDEN))],
      [/(.*c_attn\.bias)/, (name) => fusedHeads(read(name))],
      [/(.*c_fc\.weight)/, (name) => transposed(read(name), 4 * HIDDEN)],
      [/(.*c_proj\.weight)/, (name) => transposed(read(name), HIDDEN)],
      [/(.*)/, read],
    ]);
    expectEqual([graphOf(gpt2), read], [graphOf(config), packed]);
  });

  const opt = {
    architectures: ['OPTForCausalLM'],
    vocab_size: 48,
    hidden_size: HIDDEN,
    ffn_dim: 40,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    max_position_embeddings: 64,
  };

  it('projected token vectors of an opt are another table, the projected head another head', () => {
    const inner = 24;
    const config = { ...opt, word_embed_proj_dim: inner };
    const equal = { ...opt, tie_word_embeddings: false };
    const read = tensorsOf(config);
    const table = read('model.decoder.embed_tokens.weight'); // [vocabSize, inner]
    const into = read('model.decoder.project_in.weight'); // [hidden, inner]
    const outOf = transposed(read('model.decoder.project_out.weight'), HIDDEN); // [hidden, inner]
    const multiplied = renamed([
      [/embed_tokens/, () => product(table, into, inner)],
      [/lm_head/, () => product(table, outOf, inner)],
      [/(.*)/, read],
    ]);
    expectEqual([graphOf(equal), multiplied], [graphOf(config), read]);
  });

  it('an opt that norms after its branches norms the stream itself, and not at the end', () => {
    const graph = graphOf({ ...opt, do_layer_norm_before: false, num_hidden_layers: 1 });
    const places = graph.nodes
      .filter((node) => node.op === 'add' || node.op === 'layerNorm')
      .map((node) => `${node.op} ${node.label.replace('model.decoder', '')}`);
    expect(places).toEqual([
      'add ',
      'add .layers.0',
      'layerNorm .layers.0.self_attn_layer_norm',
      'add .layers.0',
      'layerNorm .layers.0.final_layer_norm',
    ]);
    const stream = graph.nodes.filter((node) => node.op === 'layerNorm').map((node) => node.outputs[0].id);
    const sums = graph.nodes
      .filter((node) => node.op === 'add')
      .map((node) => node.inputs.map((input) => input.id));
    expect(sums[2]).toContain(stream[0]);
    expect(graph.nodes.find((node) => node.op === 'gatherRows')!.inputs[0].id).toBe(stream[1]);
  });
});

/** A matrix of `columns` columns with rows and columns exchanged. */
function transposed(matrix: Float32Array, columns: number): Float32Array {
  const rows = matrix.length / columns;
  return matrix.map((_, i) => matrix[(i % rows) * columns + Math.floor(i / rows)]);
}

/** a · bᵀ, both with `columns` columns. */
function product(a: Float32Array, b: Float32Array, columns: number): Float32Array {
  const [rows, outputs] = [a.length / columns, b.length / columns];
  return Float32Array.from({ length: rows * outputs }, (_, i) => {
    const [row, output] = [Math.floor(i / outputs), i % outputs];
    let sum = 0;
    for (let j = 0; j < columns; j++) sum += a[row * columns + j] * b[output * columns + j];
    return sum;
  });
}
