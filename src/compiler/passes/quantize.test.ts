// What the pass makes of models: which weights it takes, what it leaves, what it refuses, and what a checkpoint of codes is.
import { describe, expect, test } from 'vitest';
import { compileRequest, plainKernels, TINY_GPT2, TINY_LLAMA } from '../../../test/support/compile.ts';
import type { Graph, Node } from '../../ir/graph.ts';
import type { HFConfig } from '../../models/model-definition.ts';
import type { Quantization } from '../../tensor/precision.ts';
import type { TensorCatalog } from '../../tensor/tensor-source.ts';
import type { ActivationFormat, WeightFormat } from '../../tensor/weight-format.ts';
import { compile } from '../compile.ts';
import { expectedTensors, quantizedTensors } from '../expected-tensors.ts';
import { publishedQuantization, quantizationRules } from '../quantization-rules.ts';
import type { CompileRequest } from '../request.ts';

const UNTIED: HFConfig = { ...TINY_LLAMA, tie_word_embeddings: false };
const EXPERTS: HFConfig = {
  ...UNTIED,
  architectures: ['MixtralForCausalLM'],
  model_type: 'mixtral',
  num_local_experts: 4,
  num_experts_per_tok: 2,
};

/** Kernels that leave `quantize` a node of its own. */
const APART = plainKernels().filter(({ op }) => op === 'quantize' || !op.endsWith('Quantize'));

interface Choice extends Partial<CompileRequest> {
  readonly name?: Quantization;
  readonly groupSize?: number | null;
  readonly keep?: readonly string[];
  readonly activationPrecision?: CompileRequest['recipe']['activationPrecision'];
}

function request(config: HFConfig, choice: Choice = {}): CompileRequest {
  const {
    name = 'int8',
    groupSize = null,
    keep = ['lm_head', 'router'],
    activationPrecision = 'auto',
  } = choice;
  const quantization = quantizationRules(name, groupSize, keep);
  const recipe = { weightDType: 'bfloat16', quantization, kvDType: 'bfloat16', activationPrecision } as const;
  return compileRequest(config, { recipe, kernels: APART, ...choice });
}

/** The graph after the whole of the passes. */
function graphOf(asked: CompileRequest): Graph {
  let last: Graph | undefined;
  compile(asked, (_, graph) => (last = graph));
  return last!;
}

function nodesOf(graph: Graph, op: string): readonly Node[] {
  return graph.nodes.filter((node) => node.op === op);
}

describe('what becomes of products', () => {
  test('weights become codes, and merge as floats do', () => {
    const graph = graphOf(request(UNTIED));
    // Per layer: q, k, v as one, o, gate and up as one, down.
    expect(nodesOf(graph, 'weightOnlyLinear')).toHaveLength(8);
    expect(nodesOf(graph, 'linear').map((node) => node.label)).toEqual(['lm_head']);
    const name = 'model.layers.0.self_attn.{q_proj,k_proj,v_proj}.weight_scale';
    const scales = graph.parameters.find((parameter) => parameter.name === name)!;
    expect(scales.quantization).toMatchObject({ holds: 'scales', origin: 'quantize' });
    expect(scales.value.type).toEqual({ dtype: 'float32', shape: [64, 1] });
  });

  test('activations become codes once for all that read them', () => {
    const graph = graphOf(request(UNTIED, { name: 'fp8' }));
    expect(nodesOf(graph, 'quantizedLinear')).toHaveLength(8);
    expect(nodesOf(graph, 'quantize')).toHaveLength(8);
    expect(nodesOf(graph, 'quantizedLinear')[0].attributes).toEqual({
      weightDType: 'float8_e4m3fn',
      groupSize: 32,
      hasZeros: false,
      xGroupSize: 32,
    });
  });

  test('but stay floats where that is asked for', () => {
    const graph = graphOf(request(UNTIED, { name: 'fp8', activationPrecision: '16bit' }));
    expect(nodesOf(graph, 'weightOnlyLinear')).toHaveLength(8);
    expect(nodesOf(graph, 'quantize')).toHaveLength(0);
  });

  test('on the cpu whole numbers meet whole numbers, in the small groups of the weight', () => {
    const target = { kind: 'cpu', arch: 'avx512' } as const;
    const int4 = graphOf(request(UNTIED, { name: 'int4', groupSize: 16, target }));
    expect(nodesOf(int4, 'quantizedLinear')[0].attributes).toMatchObject({ groupSize: 16, xGroupSize: 16 });
    const kept = graphOf(
      request(UNTIED, { name: 'int4', groupSize: 16, target, activationPrecision: '16bit' }),
    );
    expect(nodesOf(kept, 'quantize')).toHaveLength(0);
  });

  test.each([
    [256, null, 128],
    [192, null, 64],
    // Too few columns would share a scale.
    [80, null, 80],
    [512, 256, 128],
    [96, 48, 48],
  ])(
    'of %i columns in groups of %s they read activations in groups of %i',
    (columns, groupSize, expected) => {
      const config = { ...UNTIED, hidden_size: columns, intermediate_size: columns };
      const target = { kind: 'cpu', arch: 'avx512' } as const;
      const graph = graphOf(request(config, { groupSize, target }));
      const sizes = nodesOf(graph, 'quantizedLinear').map(({ attributes }) => attributes['xGroupSize']);
      expect(new Set(sizes)).toEqual(new Set([expected]));
    },
  );

  test('experts do as well, their router does not', () => {
    const graph = graphOf(request(EXPERTS, { name: 'smoothquant' }));
    expect(nodesOf(graph, 'quantizedGroupedLinear')).toHaveLength(6);
    expect(nodesOf(graph, 'groupedLinear')).toHaveLength(0);
    expect(nodesOf(graph, 'linear').map(({ label }) => label)).toContain(
      'model.layers.0.block_sparse_moe.gate',
    );
    // The hidden values of each expert have a scale of their own.
    const down = nodesOf(graph, 'quantizedGroupedLinear').map(({ attributes }) => attributes['xGroupSize']);
    expect(new Set(down)).toEqual(new Set([32, 48]));
  });
});

describe('what stays', () => {
  test('a head that is tied to the embedding, whatever is asked for', () => {
    const graph = graphOf(request(TINY_LLAMA, { keep: [] }));
    expect(nodesOf(graph, 'linear').map((node) => node.label)).toEqual(['lm_head']);
  });

  test('what patterns name, and roles', () => {
    const numFloats = (keep: readonly string[]) =>
      nodesOf(graphOf(request(UNTIED, { keep })), 'linear').length;
    expect(numFloats([])).toBe(0);
    expect(numFloats(['lm_head'])).toBe(1);
    expect(numFloats(['model.layers.0.*'])).toBe(4);
    expect(numFloats(['*.self_attn.*_proj.weight', 'lm_head.weight'])).toBe(5);
  });

  test('patterns that leave nothing to quantize are refused', () => {
    expect(() => graphOf(request(UNTIED, { keep: ['*'] }))).toThrow('leaves no weight to quantize');
  });

  test('a pattern that names nothing is refused', () => {
    expect(() => graphOf(request(UNTIED, { keep: ['model.layer.0.*'] }))).toThrow(
      '--quantization-keep model.layer.0.* names no weight; one is called model.embed_tokens.weight',
    );
  });
});

describe('what is refused', () => {
  test('groups that do not divide, with the largest that do', () => {
    // 32 and 48 columns.
    expect(() => graphOf(request(UNTIED, { name: 'int4' }))).toThrow(
      'uint4 in groups of 128 with zeros does not fit the 32 columns of model.layers.0.self_attn.q_proj.weight: ' +
        'the largest groups that fit every weight are --quantization-group-size 16',
    );
    expect(() => graphOf(request(UNTIED, { name: 'int4', groupSize: 32 }))).toThrow(
      '--quantization-group-size 16',
    );
  });

  test('8-bit products of floats on a GPU that has none', () => {
    const target = { kind: 'cuda', arch: 'sm_80' } as const;
    expect(() => graphOf(request(UNTIED, { name: 'fp8', target }))).toThrow(
      /fp8 multiplies 8-bit floats, which sm_80 cannot \(sm_89 and newer can\): take --quantization int8/,
    );
    const kept = graphOf(request(UNTIED, { name: 'fp8', target, activationPrecision: '16bit' }));
    expect(nodesOf(kept, 'weightOnlyLinear')).toHaveLength(8);
    const newer = { kind: 'cuda', arch: 'sm_90' } as const;
    expect(nodesOf(graphOf(request(UNTIED, { name: 'fp8', target: newer })), 'quantize')).toHaveLength(8);
  });
});

/** The catalog of a checkpoint that was quantized before. */
function checkpointOf(
  config: HFConfig,
  weights: WeightFormat,
  activations: ActivationFormat | null,
): TensorCatalog {
  const rules = { name: '', weights, activations, keep: ['lm_head', 'router'] };
  const recipe = {
    weightDType: 'bfloat16',
    quantization: rules,
    kvDType: 'bfloat16',
    activationPrecision: 'auto',
  } as const;
  return quantizedTensors(compile(compileRequest(config, { recipe })), 'bfloat16', rules);
}

describe('a checkpoint of codes', () => {
  const UINT4: WeightFormat = { dtype: 'uint4', groupSize: 16, hasZeros: true };
  const STATIC: ActivationFormat = { dtype: 'float8_e4m3fn', groupSize: null, isStatic: true };
  const FLOAT8: WeightFormat = { dtype: 'float8_e4m3fn', groupSize: null, hasZeros: false };

  function compiled(config: HFConfig, tensors: TensorCatalog) {
    const quantization = publishedQuantization(tensors);
    const recipe = {
      weightDType: 'bfloat16',
      quantization,
      kvDType: 'bfloat16',
      activationPrecision: 'auto',
    } as const;
    return compileRequest(config, { kernels: APART, tensors, recipe });
  }

  test.each([
    ['llama', UNTIED],
    ['gpt2, whose floats are stored transposed', TINY_GPT2],
    ['mixtral', EXPERTS],
  ])('%s is taken as it is', (_, config) => {
    const tensors = checkpointOf(config, UINT4, null);
    const plan = compile(compiled(config, tensors));
    expect(plan.header.recipe).toBe('bfloat16, int4-g16 weights');
    const quantized = plan.weights.filter(({ quantization }) => quantization !== null);
    expect(quantized.length).toBeGreaterThan(0);
    for (const { quantization, parts, dtype } of quantized) {
      expect(quantization!.origin).toBe('checkpoint');
      for (const { tensor, tensorShape, transpose } of parts) {
        expect(transpose).toBe(false);
        expect(tensors.get(tensor)).toMatchObject({ dtype, shape: tensorShape });
      }
    }
    // What the plan reads is what the checkpoint has.
    expect(new Set(expectedTensors(plan, 'bfloat16').keys())).toEqual(new Set(tensors.keys()));
  });

  test('static scales of what shares an input are one vector', () => {
    const tensors = checkpointOf(UNTIED, FLOAT8, STATIC);
    const graph = graphOf(compiled(UNTIED, tensors));
    const [first] = nodesOf(graph, 'quantize');
    const scales = graph.parameters.find(({ value }) => value === first.inputs[1])!;
    expect(scales.parts.map((part) => part.tensor)).toEqual(
      ['q_proj', 'k_proj', 'v_proj'].map((name) => `model.layers.0.self_attn.${name}.input_scale`),
    );
    expect(scales.quantization!.holds).toBe('inputScales');
    const { weights } = compile(compiled(UNTIED, tensors));
    expect(weights.find(({ name }) => name === scales.name)).toMatchObject({ dtype: 'float32', shape: [3] });
  });

  test('scales that are missing, or of another shape, are named', () => {
    const tensors = new Map(checkpointOf(UNTIED, UINT4, null));
    const name = 'model.layers.0.self_attn.q_proj.weight_scale';
    tensors.set(name, { dtype: 'float32', shape: [32, 1] });
    expect(() => compile(compiled(UNTIED, tensors))).toThrow(`${name}: [32, 1], the config asks for [32, 4]`);
    tensors.delete(name);
    expect(() => compile(compiled(UNTIED, tensors))).toThrow(
      `${name} [32, 4], without which its codes mean nothing`,
    );
  });

  /** All of these weights have their columns in the order `order`. */
  function ordered(tensors: TensorCatalog, weights: RegExp, columns: number): TensorCatalog {
    const changed = new Map(tensors).set('order', { dtype: 'float32', shape: [columns] });
    for (const [name, facts] of tensors) {
      if (!facts.quantized || !weights.test(name)) continue;
      changed.set(name, { ...facts, quantized: { ...facts.quantized, inputOrder: 'order' } });
    }
    return changed;
  }

  test('inputs follow columns that are in another order, once for all that share it', () => {
    const tensors = ordered(checkpointOf(UNTIED, UINT4, null), /layers\.0\..*(q|k|v|gate|up)_proj/, 32);
    const graph = graphOf(compiled(UNTIED, tensors));
    const permutes = nodesOf(graph, 'permuteColumns');
    expect(permutes).toHaveLength(2);
    expect(new Set(permutes.map(({ inputs }) => inputs[1])).size).toBe(1);
    const reads = (node: Node) => permutes.some(({ outputs }) => outputs[0] === node.inputs[0]);
    expect(nodesOf(graph, 'weightOnlyLinear').filter(reads)).toHaveLength(2);
    const { weights } = compile(compiled(UNTIED, tensors));
    expect(weights.find(({ name }) => name === 'order')).toMatchObject({ dtype: 'float32', shape: [32] });
  });

  test('an order of what experts read of their own is refused', () => {
    const tensors = ordered(checkpointOf(EXPERTS, UINT4, null), /\.w2\./, 48);
    expect(() => compile(compiled(EXPERTS, tensors))).toThrow(
      /w2.* order of their own \(desc_act, actorder\)/,
    );
  });

  test('codes where only floats fit are refused', () => {
    const tensors = new Map(checkpointOf(UNTIED, FLOAT8, null));
    const quantized = { weights: FLOAT8, activations: null };
    tensors.set('model.embed_tokens.weight', { dtype: 'float8_e4m3fn', shape: [96, 32], quantized });
    tensors.set('model.embed_tokens.weight_scale', { dtype: 'float32', shape: [96, 1] });
    expect(() => compile(compiled(UNTIED, tensors))).toThrow(
      'model.embed_tokens.weight is quantized in this checkpoint, but is no weight of a product here',
    );
  });
});

test('codes of 8 bits take half of what 16 bits take, keys and values too', () => {
  const bytes = (choice: Choice, kvDType: 'bfloat16' | 'float8_e4m3fn') => {
    const asked = request(UNTIED, choice);
    const plan = compile({ ...asked, recipe: { ...asked.recipe, kvDType } });
    const codes = plan.weights.filter(({ quantization }) => quantization?.holds === 'codes');
    return {
      codes: codes.reduce((sum, weight) => sum + weight.bytes, 0),
      perToken: plan.kvCacheGroups[0].bytesPerToken,
      numParameters: plan.model.numParameters,
    };
  };
  const plain = compile(
    compileRequest(UNTIED, { recipe: { ...request(UNTIED).recipe, quantization: null } }),
  );
  const matrices = plain.weights.filter(({ name }) => name.includes('_proj'));
  const floatBytes = matrices.reduce((sum, weight) => sum + weight.bytes, 0);
  const int8 = bytes({}, 'float8_e4m3fn');
  expect(int8.codes * 2).toBe(floatBytes);
  expect(bytes({ name: 'int4', groupSize: 16 }, 'bfloat16').codes * 4).toBe(floatBytes);
  expect(int8.perToken * 2).toBe(plain.kvCacheGroups[0].bytesPerToken);
  expect(int8.numParameters).toBe(plain.model.numParameters);
});
