import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../ir/graph-builder.ts';
import type { Attributes, Graph, Node, Value } from '../../ir/graph.ts';
import { FED_PRODUCTS } from '../../ir/ops/product-fusions.ts';
import { verifyGraph } from '../../ir/verify.ts';
import { CUDA_KERNELS } from '../../kernels/cuda/index.ts';
import type { KernelDescription } from '../../kernels/kernel.ts';
import { REFERENCE_KERNELS } from '../../kernels/reference.ts';
import type { KernelRequest } from '../kernel-query.ts';
import { quantizationRules } from '../quantization-rules.ts';
import { fuse } from './fuse.ts';
import { quantize } from './quantize.ts';
import { removeDead } from './remove-dead.ts';
import { plainKernels, TINY_LLAMA } from '../../../test/support/compile.ts';
import { cudaPlan, HOPPER } from '../../../test/support/cuda-launches.ts';

/** A graph over an embedded input `[numTokens, 8]`; `build` returns its logits. */
function toy(build: (builder: GraphBuilder, x: Value) => Value): Graph {
  const builder = new GraphBuilder('toy');
  const table = builder.parameter('table', [16, 8]);
  const [x] = builder.apply('embedding', 'embed', [builder.input('tokenIds'), table]);
  builder.output('logits', build(builder, x));
  return builder.build();
}

const REQUEST: KernelRequest = {
  kernels: REFERENCE_KERNELS,
  target: { kind: 'cuda', arch: 'sm_90' },
  recipe: { weightDType: 'float32', quantization: null, kvDType: 'float32', activationPrecision: 'auto' },
  limits: { maxNumBatchedTokens: 64, maxNumSeqs: 8, maxNumLogitRows: 8 },
};

function fused(
  build: (builder: GraphBuilder, x: Value) => Value,
  kernels = REFERENCE_KERNELS,
): readonly Node[] {
  const graph = removeDead(fuse(toy(build), { ...REQUEST, kernels }));
  verifyGraph(graph);
  return graph.nodes.slice(1);
}

const opsOf = (nodes: readonly Node[]): string[] => nodes.map((node) => node.op);
const one = (builder: GraphBuilder, op: string, inputs: Value[], attributes: Attributes = {}): Value =>
  builder.apply(op, op, inputs, attributes)[0];

describe('add and norm', () => {
  const norm = (b: GraphBuilder, x: Value, groupSize = 8) =>
    one(b, 'rmsNorm', [x, b.parameter(`norm${groupSize}`, [groupSize])], {
      eps: 1e-5,
      weightOffset: 0,
      groupSize,
    });

  test('become one op; the branch is x, the stream that it joins is the residual', () => {
    const nodes = fused((b, x) => {
      const branch = one(b, 'scale', [x], { factor: 2 });
      return norm(b, one(b, 'add', [x, branch]));
    });
    expect(opsOf(nodes)).toEqual(['scale', 'addRmsNorm']);
    expect(nodes[1].inputs.map((input) => input.name)).toEqual(['scale.scale', 'embed.embedding', 'norm8']);
    expect(nodes[1].attributes).toEqual({ eps: 1e-5, weightOffset: 0 });
  });

  test('the sum stays to be read by others, before the norm too', () => {
    const nodes = fused((b, x) => {
      const sum = one(b, 'add', [x, one(b, 'scale', [x], { factor: 2 })]);
      const other = one(b, 'scale', [sum], { factor: 3 });
      return one(b, 'multiply', [other, norm(b, sum)]);
    });
    expect(opsOf(nodes)).toEqual(['scale', 'addRmsNorm', 'scale', 'multiply']);
    expect(nodes[2].inputs[0].id).toBe(nodes[1].outputs[0].id);
  });

  test('a LayerNorm keeps its bias, or its lack of one', () => {
    for (const bias of [true, false]) {
      const nodes = fused((b, x) => {
        const affine = [b.parameter('weight', [8]), ...(bias ? [b.parameter('bias', [8])] : [])];
        return one(b, 'layerNorm', [one(b, 'add', [x, x]), ...affine], { eps: 1e-5, groupSize: 8 });
      });
      expect(opsOf(nodes)).toEqual(['addLayerNorm']);
      expect(nodes[0].inputs).toHaveLength(bias ? 4 : 3);
    }
  });

  test('a norm of groups of columns is not fused', () => {
    expect(opsOf(fused((b, x) => norm(b, one(b, 'add', [x, x]), 4)))).toEqual(['add', 'rmsNorm']);
  });
});

describe('gated activation', () => {
  const half = (b: GraphBuilder, x: Value, start: number) => one(b, 'slice', [x], { start, columns: 4 });
  const silu = (b: GraphBuilder, x: Value) => one(b, 'activation', [x], { kind: 'silu' });

  test('is found with the factors in either order, and the slices go', () => {
    for (const swap of [false, true]) {
      const nodes = fused((b, x) => {
        const factors = [silu(b, half(b, x, 0)), half(b, x, 4)];
        return one(b, 'multiply', swap ? factors.toReversed() : factors);
      });
      expect(opsOf(nodes)).toEqual(['gatedActivation']);
      expect(nodes[0].attributes).toEqual({ kind: 'silu' });
    }
  });

  test('is not found where the second half is activated, or the activation has another reader', () => {
    const second = fused((b, x) => one(b, 'multiply', [half(b, x, 0), silu(b, half(b, x, 4))]));
    expect(opsOf(second)).not.toContain('gatedActivation');
    const shared = fused((b, x) => {
      const gate = silu(b, half(b, x, 0));
      return one(b, 'add', [gate, one(b, 'multiply', [gate, half(b, x, 4)])]);
    });
    expect(opsOf(shared)).not.toContain('gatedActivation');
  });
});

describe('gated activation of a product', () => {
  function gatedBy(b: GraphBuilder, product: Value): Value {
    const [gate, up] = [0, 4].map((start) => one(b, 'slice', [product], { start, columns: 4 }));
    return one(b, 'multiply', [one(b, 'activation', [gate], { kind: 'silu' }), up]);
  }
  const product = (b: GraphBuilder, x: Value): Value => one(b, 'linear', [x, b.parameter('up', [8, 8])]);

  const kernelsThat = (isWanted: boolean): readonly KernelDescription[] => [
    ...REFERENCE_KERNELS,
    { ...REFERENCE_KERNELS[0], op: 'gatedLinear', isWanted: () => isWanted },
  ];

  test('becomes one op with it', () => {
    const nodes = fused((b, x) => gatedBy(b, product(b, x)), kernelsThat(true));
    expect(opsOf(nodes)).toEqual(['gatedLinear']);
    expect(nodes[0].attributes).toEqual({ kind: 'silu' });
    expect(nodes[0].outputs[0].type.shape).toEqual(['numTokens', 4]);
  });

  test('stays apart where others read the product, or x is a view', () => {
    const shared = fused((b, x) => {
      const whole = product(b, x);
      const first = one(b, 'slice', [whole], { start: 0, columns: 4 });
      return one(b, 'add', [first, gatedBy(b, whole)]);
    }, kernelsThat(true));
    expect(opsOf(shared)).not.toContain('gatedLinear');
    const ofView = fused((b, x) => {
      const half = one(b, 'slice', [one(b, 'scale', [x], { factor: 2 })], { start: 4, columns: 4 });
      return gatedBy(b, one(b, 'linear', [half, b.parameter('up', [8, 4])]));
    }, kernelsThat(true));
    expect(opsOf(ofView)).not.toContain('gatedLinear');
  });

  test('stays apart where the target does not want it', () => {
    const nodes = fused((b, x) => gatedBy(b, product(b, x)), kernelsThat(false));
    expect(opsOf(nodes)).toEqual(['linear', 'gatedActivation']);
  });
});

describe('rope and cache write', () => {
  const angles = (attentionFactor: number): Attributes => ({
    headDim: 4,
    rope: { rotaryDim: 4, interleaved: false, inverseFrequencies: [1, 0.1], attentionFactor },
  });

  /** Attention over `x` with 2 heads of 4 columns and one layer's cache. */
  function attend(b: GraphBuilder, x: Value, keyFactor = 1): Value {
    const group = b.kvCache({
      layer: 0,
      numKvHeads: 2,
      keyHeadDim: 4,
      valueHeadDim: 4,
      window: null,
      dtype: 'float32',
    });
    const turn = (factor: number) => one(b, 'rope', [x, b.input('positions')], angles(factor));
    const [q, k] = [turn(1), turn(keyFactor)];
    const token = one(b, 'kvWrite', [k, x, b.input('slotMapping', group)], { layer: 0 });
    const steps = [b.input('blockTables', group), b.input('cuSeqlensQ'), b.input('contextLens')];
    return one(b, 'attention', [q, token, ...steps], {
      ...{ layer: 0, numHeads: 2, numKvHeads: 2, headDim: 4, valueHeadDim: 4 },
      ...{ scale: 0.5, window: null, softcap: null, alibiSlopes: null },
    });
  }

  test('become one op with the attention’s geometry', () => {
    const nodes = fused((b, x) => attend(b, x));
    expect(opsOf(nodes)).toEqual(['ropeKvWrite', 'attention']);
    expect(nodes[0].attributes).toMatchObject({
      layer: 0,
      numHeads: 2,
      numKvHeads: 2,
      headDim: 4,
      valueHeadDim: 4,
    });
  });

  test('stay apart where queries and keys turn differently', () => {
    expect(opsOf(fused((b, x) => attend(b, x, 2)))).toEqual(['rope', 'rope', 'kvWrite', 'attention']);
  });
});

describe('quantize', () => {
  const { target } = REQUEST;
  const recipe = {
    weightDType: 'bfloat16',
    quantization: quantizationRules('fp8', null, []),
    kvDType: 'bfloat16',
    activationPrecision: 'auto',
  } as const;
  const norm = (b: GraphBuilder, x: Value): Value =>
    one(b, 'rmsNorm', [x, b.parameter('norm', [8])], { eps: 1e-5, weightOffset: 0, groupSize: 8 });
  const product = (b: GraphBuilder, x: Value): Value =>
    one(b, 'linear', [x, b.parameter('up.weight', [8, 8])]);

  function fusedOps(
    build: (builder: GraphBuilder, x: Value) => Value,
    kernels = REFERENCE_KERNELS,
  ): string[] {
    const graph = fuse(quantize(toy(build), { recipe, target, tensors: null }), {
      ...REQUEST,
      recipe,
      kernels,
    });
    verifyGraph(graph);
    return opsOf(graph.nodes.slice(1));
  }

  test('joins the norm before it that nobody else reads', () => {
    expect(fusedOps((b, x) => product(b, norm(b, x)))).toEqual(['rmsNormQuantize', 'quantizedLinear']);
    const afterAdd = fusedOps((b, x) => product(b, norm(b, one(b, 'add', [x, x]))));
    expect(afterAdd).toEqual(['addRmsNormQuantize', 'quantizedLinear']);
  });

  test('stays apart where the norm has other readers', () => {
    const ops = fusedOps((b, x) => {
      const normed = norm(b, x);
      return one(b, 'multiply', [product(b, normed), normed]);
    });
    expect(ops).toEqual(['rmsNorm', 'quantize', 'quantizedLinear', 'multiply']);
  });

  test.each([false, true])(
    'joins a gated product whose scale is known beforehand, with a bias: %s',
    (hasBias) => {
      const gate = (b: GraphBuilder, x: Value): Value => one(b, 'activation', [x], { kind: 'silu' });
      const gated = (isStatic: boolean): string[] => {
        const built = toy((b, x) => {
          const bias = hasBias ? [b.parameter('both.bias', [32])] : [];
          const whole = one(b, 'linear', [x, b.parameter('both.weight', [32, 8]), ...bias]);
          const half = (start: number) => one(b, 'slice', [whole], { start, columns: 16 });
          const product = one(b, 'multiply', [gate(b, half(0)), half(16)]);
          return one(b, 'linear', [product, b.parameter('down.weight', [8, 16])]);
        });
        const activations = { ...recipe.quantization.activations!, isStatic };
        const quantization = { ...recipe.quantization, activations };
        const own = { ...recipe, quantization };
        const kernels = ['gatedQuantizedLinear', 'gatedQuantizedLinearQuantize'].map((op) => ({
          ...REFERENCE_KERNELS[0],
          op,
        }));
        const request = { ...REQUEST, recipe: own, kernels: [...REFERENCE_KERNELS, ...kernels] };
        const graph = fuse(quantize(built, { recipe: own, target, tensors: null }), request);
        verifyGraph(graph);
        return opsOf(graph.nodes.slice(1));
      };
      expect(gated(false)).toEqual(['quantize', 'gatedQuantizedLinear', 'quantize', 'quantizedLinear']);
      expect(gated(true)).toEqual(['quantize', 'gatedQuantizedLinearQuantize', 'quantizedLinear']);
    },
  );

  test('is fused only where the target has a kernel for it', () => {
    const kernels = REFERENCE_KERNELS.filter(({ op }) => op !== 'rmsNormQuantize');
    const ops = fusedOps((b, x) => product(b, norm(b, x)), kernels);
    expect(ops).toEqual(['rmsNorm', 'quantize', 'quantizedLinear']);
  });
});

describe('a plan of static scales on cuda', () => {
  const { weights, activations } = quantizationRules('fp8', null, []);
  const config = { ...TINY_LLAMA, hidden_size: 128, intermediate_size: 256, tie_word_embeddings: false };
  const opsFor = (computeCapability: number, isStatic: boolean): readonly string[] => {
    const rules = { weights, activations: { ...activations!, isStatic }, name: 'fp8', keep: ['lm_head'] };
    const plan = cudaPlan(config, 'bfloat16', { ...HOPPER, computeCapability }, { quantization: rules });
    return plan.launches.map(({ op }) => op).slice(1, 6);
  };

  test('has no launch that only quantizes, on Hopper', () => {
    expect(opsFor(90, true)).toEqual([
      'rmsNormQuantizeQuantizedLinear',
      'ropeKvWrite',
      'attentionQuantize',
      'quantizedLinear',
      'addRmsNormQuantizeGatedQuantizedLinearQuantize',
    ]);
    expect(opsFor(90, false)).toEqual([
      'rmsNormQuantizeQuantizedLinear',
      'ropeKvWrite',
      'attention',
      'quantizeQuantizedLinear',
      'addRmsNormQuantizeGatedQuantizedLinear',
    ]);
  });

  test('quantizes what is gated by itself where no kernel gates many rows', () => {
    expect(opsFor(89, true).slice(-1)).toEqual(['addRmsNormQuantizeQuantizedLinear']);
  });
});

describe('a product', () => {
  test('is fused on cuda with every op that feeds it', () => {
    const ops = CUDA_KERNELS.map(({ op }) => op);
    expect(ops).toEqual(expect.arrayContaining(FED_PRODUCTS.map(({ op }) => op.name)));
  });

  const kernels = plainKernels();
  const fed = (ops: readonly string[]) => [...kernels, ...ops.map((op) => ({ ...kernels[0], op }))];
  const norm = (b: GraphBuilder, x: Value, groupSize = 8): Value =>
    one(b, 'rmsNorm', [x, b.parameter('norm', [groupSize])], { eps: 1e-5, weightOffset: 0, groupSize });
  const linear = (b: GraphBuilder, x: Value): Value => one(b, 'linear', [x, b.parameter('up', [16, 8])]);

  function nodesOf(build: (builder: GraphBuilder, x: Value) => Value, ops: readonly string[]): Node[] {
    const graph = fuse(toy(build), { ...REQUEST, kernels: fed(ops) });
    verifyGraph(graph);
    return graph.nodes.slice(1);
  }

  test('takes in what alone makes its input', () => {
    const [node] = nodesOf((b, x) => linear(b, norm(b, x)), ['rmsNormLinear']);
    expect(node).toMatchObject({
      op: 'rmsNormLinear',
      attributes: { source: { eps: 1e-5, weightOffset: 0, groupSize: 8 }, product: {}, numOptional: 0 },
    });
    expect(node.inputs.map(({ name }) => name)).toEqual(['embed.embedding', 'norm', 'up']);
    expect(node.outputs).toHaveLength(2);
  });

  test('leaves the sum of an addRmsNorm to others, also before the product', () => {
    const ops = nodesOf(
      (b, x) => {
        const sum = one(b, 'add', [x, one(b, 'scale', [x], { factor: 2 })]);
        const other = linear(b, one(b, 'scale', [sum], { factor: 3 }));
        return one(b, 'multiply', [other, one(b, 'linear', [norm(b, sum), b.parameter('down', [16, 8])])]);
      },
      ['addRmsNormLinear'],
    );
    expect(opsOf(ops)).toEqual(['scale', 'addRmsNormLinear', 'scale', 'linear', 'multiply']);
  });

  test('stays apart from what others read, from norms of groups, and where the target has no kernel', () => {
    const readTwice = (b: GraphBuilder, x: Value): Value => {
      const normed = norm(b, x);
      return one(b, 'multiply', [one(b, 'linear', [normed, b.parameter('up', [8, 8])]), normed]);
    };
    const apart = ['rmsNorm', 'linear'];
    expect(opsOf(nodesOf(readTwice, ['rmsNormLinear']))).toEqual([...apart, 'multiply']);
    expect(opsOf(nodesOf((b, x) => linear(b, norm(b, x, 4)), ['rmsNormLinear']))).toEqual(apart);
    expect(opsOf(nodesOf((b, x) => linear(b, norm(b, x)), []))).toEqual(apart);
  });
});
