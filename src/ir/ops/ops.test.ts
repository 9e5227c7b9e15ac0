// Every op against values worked out by hand.
import { describe, expect, it } from 'vitest';
import type { Attributes } from '../graph.ts';
import { floatTensor, TOKEN, type HostTensor } from '../host-tensor.ts';
import { PagedKVCaches } from '../paged-kv-cache.ts';
import { OPS } from './index.ts';
import { FED_PRODUCTS } from './product-fusions.ts';

/** Rows of numbers as a float tensor. */
function matrix(...rows: number[][]): HostTensor {
  return floatTensor([rows.length, rows[0].length], Float32Array.from(rows.flat()));
}

function vector(...values: number[]): HostTensor {
  return floatTensor([values.length], Float32Array.from(values));
}

function ints(...values: number[]): HostTensor {
  return { shape: [values.length], data: Int32Array.from(values) };
}

const noCaches = new PagedKVCaches([], 1, []);

function run(
  op: string,
  inputs: readonly HostTensor[],
  attributes: Attributes = {},
  caches = noCaches,
): HostTensor[] {
  return [...OPS.get(op)!.interpret(inputs, attributes, caches)];
}

/** The rows of the first output. */
function rowsOf({ shape, data }: HostTensor): number[][] {
  return Array.from({ length: shape[0] }, (_, row) => [
    ...data.subarray(row * shape[1], (row + 1) * shape[1]),
  ]);
}

function expectRows(actual: HostTensor, expected: number[][], digits = 6): void {
  expect(actual.shape).toEqual([expected.length, expected[0].length]);
  rowsOf(actual).forEach((row, r) =>
    row.forEach((value, c) => expect(value).toBeCloseTo(expected[r][c], digits)),
  );
}

describe('rows', () => {
  const table = matrix([1, 2], [3, 4], [5, 6]);

  it('embedding looks rows up', () => {
    expectRows(run('embedding', [ints(2, 0, 2), table])[0], [
      [5, 6],
      [1, 2],
      [5, 6],
    ]);
    expect(() => run('embedding', [ints(3), table])).toThrow('token id 3 is outside of the table');
  });

  it('gatherRows picks rows', () => {
    expectRows(run('gatherRows', [table, ints(1)])[0], [[3, 4]]);
  });

  it('slice picks columns', () => {
    expectRows(run('slice', [matrix([1, 2, 3, 4], [5, 6, 7, 8])], { start: 1, columns: 2 })[0], [
      [2, 3],
      [6, 7],
    ]);
  });
});

describe('linear', () => {
  const x = matrix([1, 2, 3, 4, 5]);
  const weight = matrix([1, 1, 1, 1, 1], [0, 0, 0, 0, 2]);

  it('multiplies by the transposed weight', () => expectRows(run('linear', [x, weight])[0], [[15, 10]]));
  it('adds the bias', () => expectRows(run('linear', [x, weight, vector(0.5, -1)])[0], [[15.5, 9]]));
});

describe('norms', () => {
  const x = matrix([3, 4, 0, 0], [1, 1, 1, 1]);

  it('rmsNorm divides by the root mean square', () => {
    const attributes = { eps: 0, groupSize: 4, weightOffset: 0 };
    expectRows(run('rmsNorm', [x, vector(1, 2, 1, 1)], attributes)[0], [
      [1.2, 3.2, 0, 0],
      [1, 2, 1, 1],
    ]);
  });

  it('rmsNorm honours eps and the weight offset', () => {
    const attributes = { eps: 3, groupSize: 4, weightOffset: 1 };
    expectRows(run('rmsNorm', [matrix([1, 1, 1, 1]), vector(0, 1, -1, 0)], attributes)[0], [
      [0.5, 1, 0, 0.5],
    ]);
  });

  it('rmsNorm treats groups of columns alone', () => {
    const attributes = { eps: 0, groupSize: 2, weightOffset: 0 };
    expectRows(run('rmsNorm', [matrix([3, 3, 0.5, -0.5]), vector(1, 2)], attributes)[0], [[1, 2, 1, -2]]);
  });

  it('layerNorm gives mean 0 and variance 1', () => {
    const inputs = [matrix([1, 3], [7, 3]), vector(2, 2), vector(0, 1)];
    expectRows(run('layerNorm', inputs, { eps: 0, groupSize: 2 })[0], [
      [-2, 3],
      [2, -1],
    ]);
  });

  it('layerNorm honours eps, groups and a missing bias', () => {
    const inputs = [matrix([1, 3, 5, 5]), vector(1, 1)];
    expectRows(run('layerNorm', inputs, { eps: 3, groupSize: 2 })[0], [[-0.5, 0.5, 0, 0]]);
  });

  it('layerNorm of groups with weights of their own', () => {
    const inputs = [matrix([1, 3, 5, 7]), vector(1, 2, 3, 4), vector(0, 0, 0, 1)];
    expectRows(run('layerNorm', inputs, { eps: 0, groupSize: 2 })[0], [[-1, 2, -3, 5]]);
  });

  it('addRmsNorm also gives the sum', () => {
    const [sum, normed] = run('addRmsNorm', [matrix([1, 2]), matrix([2, 2]), vector(1, 2)], {
      eps: 0,
      weightOffset: 0,
    });
    expectRows(sum, [[3, 4]]);
    expectRows(normed, [[3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)]]);
  });

  it('addLayerNorm also gives the sum', () => {
    const inputs = [matrix([1, 2]), matrix([2, 3]), vector(1, 1), vector(0, 10)];
    const [sum, normed] = run('addLayerNorm', inputs, { eps: 0 });
    expectRows(sum, [[3, 5]]);
    expectRows(normed, [[-1, 11]]);
  });
});

describe('elementwise', () => {
  const x = matrix([-2, 0, 3]);

  it('adds, multiplies, scales', () => {
    expectRows(run('add', [x, matrix([1, 1, 1])])[0], [[-1, 1, 4]]);
    expectRows(run('multiply', [x, matrix([1, 2, 3])])[0], [[-2, 0, 9]]);
    expectRows(run('scale', [x], { factor: 0.5 })[0], [[-1, 0, 1.5]]);
  });

  it('clamp moves what is outside to the nearer end', () => {
    expectRows(run('clamp', [x], { min: -1, max: 2 })[0], [[-1, 0, 2]]);
    expectRows(run('clamp', [x], { min: null, max: 2 })[0], [[-2, 0, 2]]);
  });

  it('softcap bends towards the cap', () => {
    expectRows(run('softcap', [matrix([0.001, 1000, -1000])], { cap: 30 })[0], [[0.001, 30, -30]]);
    expectRows(run('softcap', [matrix([30])], { cap: 30 })[0], [[30 * Math.tanh(1)]], 5);
  });

  // Values of the functions at −3, −0.5, 0, 1 and 8, as Python's math library gives them.
  it.each([
    ['silu', [-0.1422776, -0.1887703, 0, 0.7310586, 7.997317]],
    ['gelu', [-0.0040497, -0.1542688, 0, 0.8413447, 8]],
    ['geluTanh', [-0.0036374, -0.154286, 0, 0.841192, 8]],
    ['relu', [0, 0, 0, 1, 8]],
    ['reluSquared', [0, 0, 0, 1, 64]],
    ['quickGelu', [-0.0180733, -0.1496116, 0, 0.8457958, 7.9999903]],
    ['sigmoid', [0.0474259, 0.3775407, 0.5, 0.7310586, 0.9996646]],
    ['tanh', [-0.9950548, -0.4621172, 0, 0.7615942, 0.9999998]],
  ] as const)('activation %s', (kind, expected) => {
    expectRows(run('activation', [matrix([-3, -0.5, 0, 1, 8])], { kind })[0], [[...expected]], 5);
  });

  it('gatedActivation multiplies the activated half by the other', () => {
    expectRows(run('gatedActivation', [matrix([-1, 2, 3, 4])], { kind: 'relu' })[0], [[0, 8]]);
  });
});

describe('rope', () => {
  const quarterTurn = Math.PI / 2;
  const parameters = {
    rotaryDim: 4,
    interleaved: false,
    inverseFrequencies: [quarterTurn, 0],
    attentionFactor: 1,
  };

  it('turns column i with column i + rotaryDim / 2', () => {
    const x = matrix([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]);
    const [output] = run('rope', [x, ints(0, 1, 2)], { headDim: 4, rope: parameters });
    expectRows(output, [
      [1, 2, 3, 4],
      [-3, 2, 1, 4],
      [-1, 2, -3, 4],
    ]);
  });

  it('turns neighbours where pairs are interleaved', () => {
    const interleaved = { ...parameters, interleaved: true };
    const [output] = run('rope', [matrix([1, 2, 3, 4]), ints(1)], { headDim: 4, rope: interleaved });
    expectRows(output, [[-2, 1, 3, 4]]);
  });

  it('leaves the columns beyond rotaryDim, turns every head, and scales by the attention factor', () => {
    const partial = {
      rotaryDim: 2,
      interleaved: false,
      inverseFrequencies: [quarterTurn],
      attentionFactor: 2,
    };
    const [output] = run('rope', [matrix([1, 2, 3, 4, 5, 6]), ints(1)], { headDim: 3, rope: partial });
    expectRows(output, [[-4, 2, 3, -10, 8, 6]]);
  });
});

describe('what ops declare to passes', () => {
  const x = matrix([-1, 2, 3, 0.5], [4, -5, 6, 1], [7, 8, -9, 2]);
  const other = matrix([2, 1, 0, 1], [3, 3, 1, -1], [1, 0, 5, 2]);
  const gain = vector(1, 2, 3, 4);
  const gains = matrix([1], [2], [3]);
  const choice = { shape: [3, 2], data: Int32Array.of(0, 1, 1, 0, 1, 1) };
  const pairs = matrix([1, 2, 3, 4], [5, 6, 7, 8], [4, 3, 2, 1], [8, 7, 6, 5]);
  const pairScales = matrix([0.5], [2], [1], [0.25]);
  const int8Weight = { weightDType: 'int8', groupSize: 4, hasZeros: false };
  const rope = { rotaryDim: 2, interleaved: false, inverseFrequencies: [1], attentionFactor: 1 };
  type Example = readonly [inputs: readonly HostTensor[], attributes: Attributes];
  const unfed: Readonly<Record<string, Example>> = {
    linear: [[x, matrix([1, 2, 3, 4])], {}],
    rmsNorm: [[x, gain], { eps: 0.1, groupSize: 4, weightOffset: 0 }],
    layerNorm: [[x, gain], { eps: 0.1, groupSize: 4 }],
    addRmsNorm: [[x, other, gain], { eps: 0.1, weightOffset: 0 }],
    addLayerNorm: [[x, other, gain], { eps: 0.1 }],
    add: [[x, other], {}],
    multiply: [[x, other], {}],
    scale: [[x], { factor: 3 }],
    clamp: [[x], { min: -1, max: 2 }],
    softcap: [[x], { cap: 2 }],
    activation: [[x], { kind: 'silu' }],
    gatedActivation: [[x], { kind: 'silu' }],
    slice: [[x], { start: 1, columns: 2 }],
    rope: [[x, ints(5, 6, 9)], { headDim: 2, rope }],
    routeExperts: [
      [x],
      { numExpertsPerToken: 2, scoring: 'softmax', normalize: true, scale: 1, groups: null },
    ],
    groupedLinear: [[x, matrix([1, 2, 3, 4], [5, 6, 7, 8]), choice], { numMatrices: 2, matricesPerToken: 2 }],
    combineExperts: [[x, matrix([1, 2], [3, 4], [5, 6])], {}],
    permuteColumns: [[x, vector(2, 0, 3, 1)], {}],
    quantize: [[x], { dtype: 'int8', groupSize: 2 }],
    rmsNormQuantize: [
      [x, gain],
      { eps: 0.1, groupSize: 4, weightOffset: 0, quantize: { dtype: 'int8', groupSize: 4 } },
    ],
    addRmsNormQuantize: [
      [x, other, gain],
      { eps: 0.1, weightOffset: 0, quantize: { dtype: 'float8_e4m3fn', groupSize: 2 } },
    ],
    gatedActivationQuantize: [[x], { kind: 'silu', quantize: { dtype: 'int8', groupSize: 2 } }],
    weightOnlyLinear: [[x, matrix([1, 2, 3, 4]), matrix([0.5])], int8Weight],
    quantizedLinear: [[x, gains, matrix([1, 2, 3, 4]), matrix([0.5])], { ...int8Weight, xGroupSize: 4 }],
    gatedLinear: [[x, matrix([1, 2, 3, 4], [5, 6, 7, 8])], { kind: 'silu' }],
    gatedWeightOnlyLinear: [
      [x, matrix([1, 2, 3, 4], [5, 6, 7, 8]), matrix([0.5], [2])],
      { ...int8Weight, kind: 'silu' },
    ],
    gatedQuantizedLinear: [
      [x, gains, matrix([1, 2, 3, 4], [5, 6, 7, 8]), matrix([0.5], [2])],
      { ...int8Weight, xGroupSize: 4, kind: 'silu' },
    ],
    gatedQuantizedLinearQuantize: [
      [x, gains, matrix([1, 2, 3, 4], [5, 6, 7, 8]), matrix([0.5], [2]), vector(0.5, 2)],
      { ...int8Weight, xGroupSize: 4, kind: 'silu', quantize: { dtype: 'int8', groupSize: 1 } },
    ],
    weightOnlyGroupedLinear: [
      [x, matrix([1, 2, 3, 4], [5, 6, 7, 8]), matrix([0.5], [2]), choice],
      { ...int8Weight, numMatrices: 2, matricesPerToken: 2 },
    ],
    quantizedGroupedLinear: [
      [x, gains, matrix([1, 2, 3, 4], [5, 6, 7, 8]), matrix([0.5], [2]), choice],
      { ...int8Weight, xGroupSize: 4, numMatrices: 2, matricesPerToken: 2 },
    ],
    gatedGroupedLinear: [[x, pairs, choice], { numMatrices: 2, matricesPerToken: 2, kind: 'silu' }],
    gatedWeightOnlyGroupedLinear: [
      [x, pairs, pairScales, choice],
      { ...int8Weight, numMatrices: 2, matricesPerToken: 2, kind: 'silu' },
    ],
    gatedQuantizedGroupedLinear: [
      [x, gains, pairs, pairScales, choice],
      { ...int8Weight, xGroupSize: 4, numMatrices: 2, matricesPerToken: 2, kind: 'silu' },
    ],
  };
  const fed = FED_PRODUCTS.map(({ op, source, product }): readonly [string, Example] => {
    const [sourceInputs, sourceAttributes] = unfed[source.name];
    const columns = source.name.startsWith('gated') ? 2 : 4;
    const isGated = product.name.startsWith('gated');
    const weight = isGated ? matrix([1, 2, 3, 4], [5, 6, 7, 8]) : matrix([1, 2, 3, 4].slice(0, columns));
    const scales = product.scalesInput === null ? [] : [isGated ? matrix([0.5], [2]) : matrix([0.5])];
    const isQuantizing = product.name.endsWith('Quantize');
    const inputs = [...sourceInputs, weight, ...scales, ...(isQuantizing ? [vector(3)] : [])];
    const format = { weightDType: 'int8', groupSize: columns, hasZeros: false };
    const ofProduct = {
      ...(scales.length > 0 ? format : {}),
      ...(isGated ? { kind: 'silu' } : {}),
      ...(isQuantizing ? { quantize: { dtype: 'int8', groupSize: 1 } } : {}),
    };
    if (product.matrixInput === 1)
      return [op.name, [inputs, { source: sourceAttributes, product: ofProduct, numOptional: 0 }]];
    const quantize = { dtype: 'int8', groupSize: columns };
    const ofSource = source.name === 'quantize' ? quantize : { ...sourceAttributes, quantize };
    const attributes = { source: ofSource, product: { ...ofProduct, xGroupSize: columns }, numOptional: 0 };
    return [op.name, [inputs, attributes]];
  });
  const examples: Readonly<Record<string, Example>> = { ...unfed, ...Object.fromEntries(fed) };
  const numRows = x.shape[0];

  it.each(FED_PRODUCTS)('$op.name does one after the other', ({ op, source, product }) => {
    const [inputs, attributes] = examples[op.name];
    const made = run(source.name, inputs.slice(0, op.matrixInput!), attributes['source'] as Attributes);
    const operands = [...made.slice(-product.matrixInput!), ...inputs.slice(op.matrixInput!)];
    const y = run(product.name, operands, attributes['product'] as Attributes);
    expect(run(op.name, inputs, attributes)).toEqual([...made, ...y]);
    if (product.matrixInput === 1) return;
    // Scales known beforehand come last.
    const known = vector(0.25, 0.5);
    const codes = run(
      source.name,
      [...inputs.slice(0, op.matrixInput!), known],
      attributes['source'] as Attributes,
    );
    expect(codes.at(-1)!.data).toEqual(new Float32Array(numRows).fill(0.5));
    const ofCodes = [...codes.slice(-product.matrixInput!), ...inputs.slice(op.matrixInput!)];
    const z = run(product.name, ofCodes, attributes['product'] as Attributes);
    expect(run(op.name, [...inputs, known], { ...attributes, numOptional: 1 })).toEqual([...codes, ...z]);
  });

  it('has an example of every op that claims to treat rows alone', () => {
    expect(Object.keys(examples).sort()).toEqual(
      [...OPS.values()]
        .filter((op) => op.isRowwise)
        .map((op) => op.name)
        .sort(),
    );
  });

  it.each(Object.entries(examples))('%s treats rows alone', (op, [inputs, attributes]) => {
    const whole = run(op, inputs, attributes);
    for (let row = 0; row < numRows; row++) {
      const alone = run(
        op,
        inputs.map((input) => (input.shape[0] === numRows ? rowOf(input, row) : input)),
        attributes,
      );
      whole.forEach((output, i) => expect(alone[i].data).toEqual(rowOf(output, row).data));
    }
  });

  it.each(Object.entries(examples).filter(([op]) => OPS.get(op)!.isElementwise))(
    '%s treats columns alone',
    (op, [inputs, attributes]) => {
      const [reversed] = run(op, inputs.map(reverseElements), attributes);
      expect(reverseElements(reversed)).toEqual(run(op, inputs, attributes)[0]);
    },
  );

  function rowOf({ shape: [, ...rest], data }: HostTensor, row: number): HostTensor {
    const size = rest[0] ?? 1;
    return { shape: [1, ...rest], data: data.slice(row * size, (row + 1) * size) };
  }

  function reverseElements({ shape, data }: HostTensor): HostTensor {
    return { shape, data: data.toReversed() };
  }
});

describe('cache and attention', () => {
  const spec = {
    layer: 0,
    numKvHeads: 1,
    keyHeadDim: 2,
    valueHeadDim: 1,
    window: null,
    dtype: 'float32',
  } as const;
  const attributes = {
    ...{ layer: 0, numHeads: 1, numKvHeads: 1, headDim: 2, valueHeadDim: 1 },
    ...{ scale: 1, window: null, softcap: null, alibiSlopes: null },
  };
  /** Score ln w against the query [1, 0] gives the weight w before normalisation. */
  const weightedKey = (weight: number): number[] => [Math.log(weight), 7];

  /** One sequence in blocks 2 and 0 of two tokens; weights 1, 2, 1 and values 10, 20, 40 are cached. */
  function cachedSequence(dtype: 'float32' | 'bfloat16' = 'float32'): PagedKVCaches {
    const caches = new PagedKVCaches([[{ ...spec, dtype }]], 2, [3]);
    const keys = matrix(weightedKey(1), weightedKey(2), weightedKey(1));
    run('kvWrite', [keys, matrix([10], [20], [40]), ints(4, 5, 0)], { layer: 0 }, caches);
    return caches;
  }

  function attend(caches: PagedKVCaches, queries: number[][], more: Attributes = {}): HostTensor {
    const blockTables = { shape: [1, 2], data: Int32Array.of(2, 0) };
    const inputs = [matrix(...queries), TOKEN, blockTables, ints(0, queries.length), ints(3)];
    return run('attention', inputs, { ...attributes, ...more }, caches)[0];
  }

  it('averages values by the softmax of the scores, over scattered blocks', () => {
    expectRows(attend(cachedSequence(), [[1, 0]]), [[(10 + 2 * 20 + 40) / 4]], 5);
  });

  it('is causal: earlier queries of a chunk see less', () => {
    const expected = [[10], [(10 + 2 * 20) / 3], [22.5]];
    expectRows(
      attend(cachedSequence(), [
        [1, 0],
        [1, 0],
        [1, 0],
      ]),
      expected,
      5,
    );
  });

  it('looks back `window` tokens, itself included', () => {
    expectRows(
      attend(
        cachedSequence(),
        [
          [1, 0],
          [1, 0],
        ],
        { window: 2 },
      ),
      [[50 / 3], [80 / 3]],
      5,
    );
    expectRows(
      attend(
        cachedSequence(),
        [
          [1, 0],
          [1, 0],
        ],
        { window: 1 },
      ),
      [[20], [40]],
      5,
    );
  });

  it('scales, caps and slopes scores', () => {
    expectRows(attend(cachedSequence(), [[1, 0]], { scale: 2 }), [[(10 + 4 * 20 + 40) / 6]], 5);
    const capped = Math.exp(0.5 * Math.tanh(Math.log(2) / 0.5));
    expectRows(
      attend(cachedSequence(), [[1, 0]], { softcap: 0.5 }),
      [[(50 + capped * 20) / (2 + capped)]],
      5,
    );
    const halving = { alibiSlopes: [Math.log(2)] }; // weights 1/4, 2/2, 1
    expectRows(attend(cachedSequence(), [[1, 0]], halving), [[(2.5 + 20 + 40) / 2.25]], 5);
  });

  it('keeps keys and values as the cache type rounds them', () => {
    const caches = new PagedKVCaches([[{ ...spec, dtype: 'bfloat16' }]], 2, [1]);
    run('kvWrite', [matrix([0.1, 257]), matrix([1 / 3]), ints(1)], { layer: 0 }, caches);
    expect([...caches.layer(0).keys]).toEqual([0, 0, 0.10009765625, 256]);
    expect([...caches.layer(0).values]).toEqual([0, 0.333984375]);
  });

  it('copies whole blocks', () => {
    const caches = cachedSequence();
    caches.copyBlocks(Int32Array.of(0, 2, 1));
    expect([...caches.layer(0).values]).toEqual([40, 0, 10, 20, 10, 20]);
  });

  it('gives each group of query heads its own key head', () => {
    const caches = new PagedKVCaches([[{ ...spec, numKvHeads: 2 }]], 2, [1]);
    run('kvWrite', [matrix([0, 0, 0, 0]), matrix([1, 2]), ints(0)], { layer: 0 }, caches);
    const blockTables = { shape: [1, 1], data: Int32Array.of(0) };
    const inputs = [matrix(new Array<number>(8).fill(1)), TOKEN, blockTables, ints(0, 1), ints(1)];
    expectRows(run('attention', inputs, { ...attributes, numHeads: 4, numKvHeads: 2 }, caches)[0], [
      [1, 1, 2, 2],
    ]);
  });

  it('keeps sequences of a batch apart', () => {
    const caches = new PagedKVCaches([[spec]], 2, [2]);
    run(
      'kvWrite',
      [matrix([0, 0], [0, 0], [0, 0]), matrix([1], [2], [6]), ints(0, 2, 3)],
      { layer: 0 },
      caches,
    );
    const blockTables = { shape: [2, 1], data: Int32Array.of(0, 1) };
    const inputs = [matrix([0, 0], [0, 0], [0, 0]), TOKEN, blockTables, ints(0, 1, 3), ints(1, 2)];
    expectRows(run('attention', inputs, attributes, caches)[0], [[1], [2], [4]]);
  });

  it('ropeKvWrite turns queries and keys, and stores', () => {
    const caches = new PagedKVCaches([[spec]], 2, [1]);
    const rope = { rotaryDim: 2, interleaved: false, inverseFrequencies: [Math.PI / 2], attentionFactor: 1 };
    const { layer, numHeads, numKvHeads, headDim, valueHeadDim } = attributes;
    const inputs = [matrix([1, 2]), matrix([3, 4]), matrix([5]), ints(1), ints(0)];
    const [q, token] = run(
      'ropeKvWrite',
      inputs,
      { layer, numHeads, numKvHeads, headDim, valueHeadDim, rope },
      caches,
    );
    expectRows(q, [[-2, 1]]);
    expect(token).toBe(TOKEN);
    caches
      .layer(0)
      .keys.slice(0, 2)
      .forEach((value, i) => expect(value).toBeCloseTo([-4, 3][i], 6));
    expect(caches.layer(0).values[0]).toBe(5);
  });
});
