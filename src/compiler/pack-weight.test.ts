import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { WeightPart } from '../ir/graph.ts';
import { layoutBytes, type WeightLayout } from '../kernels/kernel.ts';
import {
  decodeFloats,
  itemSize,
  roundTo,
  toBfloat16Bits,
  toFloat16Bits,
  type FloatDType,
} from '../tensor/dtype.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { packWeight } from './pack-weight.ts';
import type { WeightSpec } from './plan.ts';

const DTYPES: readonly FloatDType[] = ['float32', 'bfloat16', 'float16'];
const LAYOUTS: readonly WeightLayout[] = ['rowMajor', 'panel16', 'panel16x2'];

function encode(dtype: FloatDType, values: readonly number[]): Uint8Array {
  if (dtype === 'float32') return new Uint8Array(Float32Array.from(values).buffer);
  return new Uint8Array(
    Uint16Array.from(values, dtype === 'bfloat16' ? toBfloat16Bits : toFloat16Bits).buffer,
  );
}

/** A tensor of pseudo-random values, some of which no 16-bit type can hold exactly. */
function tensor(dtype: FloatDType, shape: readonly number[], seed: number): TensorView {
  const count = shape.reduce((product, size) => product * size, 1);
  const values = Array.from({ length: count }, (_, i) => Math.sin(seed + i * 1.7) * 3);
  return { dtype, shape, bytes: encode(dtype, values) };
}

function sourceOf(tensors: Readonly<Record<string, TensorView>>): TensorSource {
  return { read: (name) => tensors[name], close: () => undefined };
}

function weightOf(parts: readonly WeightPart[], dtype: FloatDType, layout: WeightLayout): WeightSpec {
  const rows = parts.reduce((sum, part) => sum + part.rowCount, 0);
  const columns = parts[0].columnCount;
  const bytes = layoutBytes(layout, rows, columns, itemSize(dtype));
  return { id: 0, name: 'weight', dtype, shape: [rows, columns], layout, parts, quantization: null, bytes };
}

/** Element index of `[row, column]`, straight from the definition of the layouts. */
function address(layout: WeightLayout, columns: number, row: number, column: number): number {
  const panel = Math.floor(row / 16);
  const lane = row % 16;
  if (layout === 'rowMajor') return row * columns + column;
  if (layout === 'panel16') return (panel * columns + column) * 16 + lane;
  const pairs = Math.ceil(columns / 2);
  return ((panel * pairs + Math.floor(column / 2)) * 16 + lane) * 2 + (column % 2);
}

const partOf = (columns: number) =>
  fc
    .record({
      rows: fc.integer({ min: 1, max: 37 }),
      rowsBefore: fc.integer({ min: 0, max: 5 }),
      rowStep: fc.integer({ min: 1, max: 3 }),
      rowsAfter: fc.integer({ min: 0, max: 5 }),
      columnsBefore: fc.integer({ min: 0, max: 3 }),
      columnsAfter: fc.integer({ min: 0, max: 3 }),
      transpose: fc.boolean(),
      dtype: fc.constantFrom(...DTYPES),
      seed: fc.integer({ min: 0, max: 1000 }),
    })
    .map((choice) => {
      const shape = [
        choice.rowsBefore + choice.rows * choice.rowStep + choice.rowsAfter,
        choice.columnsBefore + columns + choice.columnsAfter,
      ];
      const tensorShape = choice.transpose ? shape.toReversed() : shape;
      return { ...choice, columns, tensorShape, view: tensor(choice.dtype, tensorShape, choice.seed) };
    });

describe('packWeight', () => {
  test('every element stands where the layout says, rounded to the weight’s type, and padding is zero', () => {
    const cases = fc.record({
      parts: fc
        .integer({ min: 1, max: 40 })
        .chain((columns) => fc.array(partOf(columns), { minLength: 1, maxLength: 3 })),
      dtype: fc.constantFrom(...DTYPES),
      layout: fc.constantFrom(...LAYOUTS),
    });
    fc.assert(
      fc.property(cases, ({ parts: choices, dtype, layout }) => {
        const views = Object.fromEntries(choices.map((choice, i) => [`t${i}`, choice.view]));
        const parts = choices.map((choice, i): WeightPart => ({
          name: `t${i}`,
          tensor: `t${i}`,
          tensorShape: choice.tensorShape,
          transpose: choice.transpose,
          rowStart: choice.rowsBefore,
          rowCount: choice.rows,
          rowStep: choice.rowStep,
          columnStart: choice.columnsBefore,
          columnCount: choice.columns,
        }));
        const spec = weightOf(parts, dtype, layout);
        const packed = decodeFloats(dtype, packWeight(spec, sourceOf(views)));
        const expected = new Float32Array(spec.bytes / itemSize(dtype));
        let firstRow = 0;
        for (const choice of choices) {
          const values = decodeFloats(choice.dtype, choice.view.bytes);
          const stride = choice.tensorShape[1];
          for (let r = 0; r < choice.rows; r++) {
            for (let c = 0; c < choice.columns; c++) {
              const [i, j] = [choice.rowsBefore + r * choice.rowStep, choice.columnsBefore + c];
              const value = values[choice.transpose ? j * stride + i : i * stride + j];
              expected[address(layout, choice.columns, firstRow + r, c)] = roundTo(dtype, value);
            }
          }
          firstRow += choice.rows;
        }
        expect(packed).toEqual(expected);
      }),
      { numRuns: 100 },
    );
  });

  test('a vector is copied as it is, from bytes at an odd address too', () => {
    const bytes = new Uint8Array(1 + 3 * 4);
    bytes.set(encode('float32', [1, -2, 0.5]), 1);
    const view: TensorView = { dtype: 'float32', shape: [3], bytes: bytes.subarray(1) };
    const part = {
      name: 'n',
      tensor: 'n',
      tensorShape: [3],
      transpose: false,
      rowStart: 0,
      rowCount: 3,
      rowStep: 1,
      columnStart: 0,
      columnCount: 1,
    };
    const spec: WeightSpec = { ...weightOf([part], 'float32', 'rowMajor'), shape: [3] };
    expect(decodeFloats('float32', packWeight(spec, sourceOf({ n: view })))).toEqual(
      Float32Array.of(1, -2, 0.5),
    );
  });

  test('infinities and NaN survive conversion', () => {
    const view: TensorView = {
      dtype: 'float16',
      shape: [3],
      bytes: encode('float16', [Infinity, -Infinity, NaN]),
    };
    const part = {
      name: 'n',
      tensor: 'n',
      tensorShape: [3],
      transpose: false,
      rowStart: 0,
      rowCount: 3,
      rowStep: 1,
      columnStart: 0,
      columnCount: 1,
    };
    const spec: WeightSpec = { ...weightOf([part], 'bfloat16', 'rowMajor'), shape: [3] };
    expect([...decodeFloats('bfloat16', packWeight(spec, sourceOf({ n: view })))]).toEqual([
      Infinity,
      -Infinity,
      NaN,
    ]);
  });

  test('a tensor of another shape than the plan’s is refused with both shapes', () => {
    const part = {
      name: 'w',
      tensor: 'w',
      tensorShape: [4, 2],
      transpose: false,
      rowStart: 0,
      rowCount: 4,
      rowStep: 1,
      columnStart: 0,
      columnCount: 2,
    };
    const spec = weightOf([part], 'float32', 'rowMajor');
    const view = tensor('float32', [4, 3], 0);
    expect(() => packWeight(spec, sourceOf({ w: view }))).toThrow(/w is \[4, 3\].*\[4, 2\]/);
  });
});
