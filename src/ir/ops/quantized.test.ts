// Ops of codes against numbers by hand, against the products of floats that they stand for, and what they refuse.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantizeRows, quantizeRows } from '../../tensor/quantize-rows.ts';
import { scaleColumns, type GroupedFormat } from '../../tensor/weight-format.ts';
import type { Attributes, ValueDType, ValueType } from '../graph.ts';
import { floatTensor, type HostTensor } from '../host-tensor.ts';
import { PagedKVCaches } from '../paged-kv-cache.ts';
import { OPS } from './index.ts';

const noCaches = new PagedKVCaches([], 1, []);

function run(op: string, inputs: readonly HostTensor[], attributes: Attributes = {}): readonly HostTensor[] {
  return OPS.get(op)!.interpret(inputs, attributes, noCaches);
}

function infer(op: string, inputs: readonly ValueType[], attributes: Attributes): readonly ValueType[] {
  return OPS.get(op)!.infer({ label: 'layer', inputs, attributes });
}

function type(dtype: ValueDType, rows: number | 'numTokens', ...columns: number[]): ValueType {
  return { dtype, shape: [rows, ...columns] };
}

function matrix(...rows: number[][]): HostTensor {
  return floatTensor([rows.length, rows[0].length], Float32Array.from(rows.flat()));
}

describe('quantize', () => {
  it('gives every group of a row a scale', () => {
    const x = matrix([127, -1, 0, 0], [2, 254, 8, 12.7]);
    const [codes, scales] = run('quantize', [x], { dtype: 'int8', groupSize: 2 });
    expect([...codes.data].map((code) => code + 0)).toEqual([127, -1, 0, 0, 1, 127, 80, 127]);
    expect([...scales.data]).toEqual([1, 1, 2, Math.fround(12.7 / 127)].map(Math.fround));
  });

  it('takes the largest of static scales', () => {
    const staticScales = floatTensor([2], Float32Array.of(0.5, 2));
    const inputs = [matrix([4, 2000]), staticScales];
    const [codes, scales] = run('quantize', inputs, { dtype: 'float8_e4m3fn', groupSize: 2 });
    expect([...codes.data]).toEqual([2, 448]);
    expect([...scales.data]).toEqual([2]);
  });

  it('infers codes and float32 scales', () => {
    expect(infer('quantize', [type('bfloat16', 'numTokens', 96)], { dtype: 'int8', groupSize: 32 })).toEqual([
      type('int8', 'numTokens', 96),
      type('float32', 'numTokens', 3),
    ]);
    expect(() =>
      infer('quantize', [type('float32', 'numTokens', 96)], { dtype: 'int8', groupSize: 64 }),
    ).toThrow('columns must be a multiple of groupSize 64');
  });
});

describe('permuteColumns', () => {
  it('brings columns to the places that an order gives them', () => {
    const order = floatTensor([3], Float32Array.of(2, 0, 1));
    const [y] = run('permuteColumns', [matrix([1, 2, 3], [4, 5, 6]), order]);
    expect([...y.data]).toEqual([3, 1, 2, 6, 4, 5]);
  });

  it('wants a place for every column', () => {
    const operands = [type('float32', 'numTokens', 4), type('float32', 3)];
    expect(() => infer('permuteColumns', operands, {})).toThrow('order must have 4 elements');
  });
});

const FORMATS: readonly GroupedFormat[] = [
  { dtype: 'int8', groupSize: 8, hasZeros: false },
  { dtype: 'uint4', groupSize: 4, hasZeros: true },
  { dtype: 'uint4', groupSize: 8, hasZeros: false },
  { dtype: 'float8_e4m3fn', groupSize: 8, hasZeros: false },
];

function attributesOf({ dtype, groupSize, hasZeros }: GroupedFormat) {
  return { weightDType: dtype, groupSize, hasZeros };
}

interface Quantized {
  readonly codes: HostTensor;
  readonly scales: HostTensor;
  readonly values: HostTensor;
}

function quantized(rows: number, columns: number, values: Float32Array, format: GroupedFormat): Quantized {
  const { codes, scales } = quantizeRows(values, format);
  return {
    codes: floatTensor([rows, columns], codes),
    scales: floatTensor([rows, scaleColumns(format, columns)], scales),
    values: floatTensor([rows, columns], dequantizeRows(codes, scales, format)),
  };
}

const COLUMNS = 8;
const anyCase = fc
  .record({ numTokens: fc.integer({ min: 1, max: 3 }), numOutputs: fc.integer({ min: 1, max: 5 }) })
  .chain(({ numTokens, numOutputs }) => {
    const floats = (count: number) =>
      fc.float32Array({ minLength: count, maxLength: count, min: -4, max: 4, noNaN: true });
    return fc.record({
      format: fc.constantFrom(...FORMATS),
      xGroupSize: fc.constantFrom(4, 8),
      numTokens: fc.constant(numTokens),
      numOutputs: fc.constant(numOutputs),
      x: floats(numTokens * COLUMNS),
      weight: floats(numOutputs * COLUMNS),
      bias: fc.option(floats(numOutputs), { nil: null }),
    });
  });

describe('products', () => {
  it('are those of the floats that the codes stand for', () => {
    fc.assert(
      fc.property(anyCase, ({ format, xGroupSize, numTokens, numOutputs, x, weight, bias }) => {
        const w = quantized(numOutputs, COLUMNS, weight, format);
        const xFormat = { dtype: 'int8', groupSize: xGroupSize, hasZeros: false } as const;
        const q = quantized(numTokens, COLUMNS, x, xFormat);
        const biases = bias ? [floatTensor([numOutputs], bias)] : [];
        const attributes = attributesOf(format);
        const floats = floatTensor([numTokens, COLUMNS], x);
        const weightOnly = run('weightOnlyLinear', [floats, w.codes, w.scales, ...biases], attributes);
        expect(weightOnly).toEqual(run('linear', [floats, w.values, ...biases]));
        const operands = [q.codes, q.scales, w.codes, w.scales, ...biases];
        const product = run('quantizedLinear', operands, { ...attributes, xGroupSize });
        expect(product).toEqual(run('linear', [q.values, w.values, ...biases]));
      }),
    );
  });

  it('go through the experts that ids name', () => {
    const format = FORMATS[0];
    const values = Float32Array.from({ length: 6 * COLUMNS }, (_, i) => Math.sin(i));
    const w = quantized(6, COLUMNS, values, format);
    const x = Float32Array.from({ length: 4 * COLUMNS }, (_, i) => Math.cos(i));
    const q = quantized(2, 2 * COLUMNS, x, format);
    const ids = { shape: [2, 2], data: Int32Array.of(2, 0, 1, 2) };
    const groups = { numMatrices: 3, matricesPerToken: 2 };
    const attributes = { ...groups, ...attributesOf(format) };
    const floats = floatTensor([2, 2 * COLUMNS], x);
    expect(run('weightOnlyGroupedLinear', [floats, w.codes, w.scales, ids], attributes)).toEqual(
      run('groupedLinear', [floats, w.values, ids], groups),
    );
    const operands = [q.codes, q.scales, w.codes, w.scales, ids];
    const product = run('quantizedGroupedLinear', operands, { ...attributes, xGroupSize: COLUMNS });
    expect(product).toEqual(run('groupedLinear', [q.values, w.values, ids], groups));
  });
});

describe('ops that yield codes under scales known beforehand', () => {
  const format = { dtype: 'float8_e4m3fn', groupSize: 8, hasZeros: false } as const;
  const quantize = { dtype: 'float8_e4m3fn', groupSize: 3 };
  const scales = floatTensor([2], Float32Array.of(0.25, 0.125));
  const w = quantized(
    6,
    COLUMNS,
    Float32Array.from({ length: 6 * COLUMNS }, (_, i) => Math.sin(i)),
    format,
  );
  const x = quantized(
    2,
    COLUMNS,
    Float32Array.from({ length: 2 * COLUMNS }, (_, i) => Math.cos(i)),
    format,
  );
  const own = { ...attributesOf(format), xGroupSize: 8, kind: 'silu' };
  const operands = [x.codes, x.scales, w.codes, w.scales];

  it('quantize what they would yield otherwise, with a bias or without', () => {
    for (const bias of [[], [floatTensor([6], Float32Array.of(1, 2, 3, 4, 5, 6))]]) {
      const [y] = run('gatedQuantizedLinear', [...operands, ...bias], own);
      const codes = run('gatedQuantizedLinearQuantize', [...operands, scales, ...bias], { ...own, quantize });
      expect(codes).toEqual(run('quantize', [y, scales], quantize));
    }
  });

  it('refuse to be without scales', () => {
    const types = [
      ...[type('float8_e4m3fn', 'numTokens', 8), type('float32', 'numTokens', 1)],
      ...[type('float8_e4m3fn', 6, 8), type('float32', 6, 1)],
    ];
    const attributes = { ...own, quantize };
    expect(infer('gatedQuantizedLinearQuantize', [...types, type('float32', 2)], attributes)).toEqual([
      type('float8_e4m3fn', 'numTokens', 3),
      type('float32', 'numTokens', 1),
    ]);
    expect(() => infer('gatedQuantizedLinearQuantize', types, attributes)).toThrow('staticScales, bias?');
    const ofAttention = ['q', 'token', 'blockTables', 'cuSeqlensQ', 'contextLens', 'staticScales', 'sinks?'];
    expect(OPS.get('attentionQuantize')!.inputs).toEqual(ofAttention);
  });
});

describe('shapes', () => {
  const weight = type('uint4', 6, 16);
  const scales = type('float32', 6, 8);
  const attributes = { weightDType: 'uint4', groupSize: 4, hasZeros: true };

  it('follow the weight; a product of codes is float32', () => {
    const x = type('bfloat16', 'numTokens', 16);
    expect(infer('weightOnlyLinear', [x, weight, scales], attributes)).toEqual([
      type('bfloat16', 'numTokens', 6),
    ]);
    const codes = [type('int8', 'numTokens', 16), type('float32', 'numTokens', 4)];
    expect(infer('quantizedLinear', [...codes, weight, scales], { ...attributes, xGroupSize: 4 })).toEqual([
      type('float32', 'numTokens', 6),
    ]);
    const groups = { numMatrices: 3, matricesPerToken: 2 };
    const ids = type('int32', 'numTokens', 2);
    expect(infer('weightOnlyGroupedLinear', [x, weight, scales, ids], { ...attributes, ...groups })).toEqual([
      type('bfloat16', 'numTokens', 4),
    ]);
    expect(
      infer('quantizedGroupedLinear', [...codes, weight, scales, ids], {
        ...attributes,
        ...groups,
        xGroupSize: 4,
      }),
    ).toEqual([type('float32', 'numTokens', 4)]);
  });

  const x = type('float32', 'numTokens', 16);
  it.each([
    ['codes of another type', [x, type('int8', 6, 16), scales], {}, 'weight must be uint4 codes'],
    ['too few scales', [x, weight, type('float32', 6, 4)], {}, 'the scales must have 8 columns'],
    ['scales of other rows', [x, weight, type('float32', 5, 8)], {}, 'must have the same rows'],
    ['a group that does not divide', [x, weight, scales], { groupSize: 6 }, 'groupSize 6 must divide'],
    [
      'x of other columns',
      [type('float32', 'numTokens', 8), weight, scales],
      {},
      'must have the same columns',
    ],
    ['x of codes', [type('int8', 'numTokens', 16), weight, scales], {}, 'x must be floats'],
  ])('weightOnlyLinear refuses %s', (_, inputs, changes, problem) => {
    expect(() => infer('weightOnlyLinear', inputs, { ...attributes, ...changes })).toThrow(problem);
  });

  const codes = type('int8', 'numTokens', 16);
  it.each([
    ['x of floats', [x, type('float32', 'numTokens', 4)], 'x must be'],
    ['scales of another group', [codes, type('float32', 'numTokens', 2)], 'xScales must have one column'],
    ['scales of other rows', [codes, type('float32', 7, 4)], 'must have the same rows'],
  ])('quantizedLinear refuses %s', (_, operands, problem) => {
    const inputs = [...operands, weight, scales];
    expect(() => infer('quantizedLinear', inputs, { ...attributes, xGroupSize: 4 })).toThrow(problem);
  });
});
