import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { assembleWeight } from '../ir/assemble-weight.ts';
import type { ParameterQuantization, WeightPart } from '../ir/graph.ts';
import { layoutBytes, type WeightLayout } from '../kernels/kernel.ts';
import { decodeCodes, decodeTensor, encodeCodes } from '../tensor/codes.ts';
import {
  decodeFloats,
  itemSize,
  roundTo,
  toBfloat16Bits,
  toFloat16Bits,
  type FloatDType,
} from '../tensor/dtype.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { scaleColumns, type WeightFormat } from '../tensor/weight-format.ts';
import { packWeight, WeightPacker } from './pack-weight.ts';
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

  test('evenOdd has the even ones of every eight codes first, two to a byte', () => {
    const columns = 16;
    const codes = Float32Array.from({ length: 2 * columns }, (_, i) => (7 * i) % 16);
    const view = { dtype: 'uint4', shape: [2, columns], bytes: encodeCodes('uint4', codes) } as const;
    const part = {
      name: 'w',
      tensor: 'w',
      tensorShape: [2, columns],
      transpose: false,
      rowStart: 0,
      rowCount: 2,
      rowStep: 1,
      columnStart: 0,
      columnCount: columns,
    };
    const format = { dtype: 'uint4', groupSize: 8, hasZeros: true } as const;
    const spec: WeightSpec = {
      ...weightOf([part], 'bfloat16', 'evenOdd'),
      dtype: 'uint4',
      quantization: { format, holds: 'codes', origin: 'checkpoint' },
      bytes: columns,
    };
    const order = [0, 2, 4, 6, 1, 3, 5, 7];
    const expected = codes.map((_, i) => codes[i - (i % 8) + order[i % 8]]);
    expect(decodeCodes('uint4', packWeight(spec, sourceOf({ w: view })))).toEqual(expected);
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

describe('quantized weights', () => {
  const FORMATS: readonly WeightFormat[] = [
    { dtype: 'int8', groupSize: null, hasZeros: false },
    { dtype: 'int8', groupSize: 4, hasZeros: false },
    { dtype: 'uint4', groupSize: 4, hasZeros: true },
    { dtype: 'uint4', groupSize: 8, hasZeros: false },
    { dtype: 'float8_e4m3fn', groupSize: null, hasZeros: false },
  ];
  const [ROWS, COLUMNS] = [18, 8];

  function specOf(
    quantization: ParameterQuantization,
    columns: number,
    transpose: boolean,
    layout: WeightLayout,
  ): WeightSpec {
    const place = { rowStart: 0, rowCount: ROWS, rowStep: 1, columnStart: 0, transpose };
    const { format, holds, origin } = quantization;
    const cut = origin === 'quantize' ? COLUMNS : columns;
    const tensorShape = transpose ? [cut, ROWS] : [ROWS, cut];
    const parts = [{ name: 'w', tensor: 'w', tensorShape, columnCount: cut, ...place }];
    const dtype = holds === 'codes' ? format.dtype : 'float32';
    const bytes = layoutBytes(layout, ROWS, columns, itemSize(dtype));
    return { id: 0, name: 'w', dtype, shape: [ROWS, columns], layout, parts, quantization, bytes };
  }

  test('are those that the interpreter assembles, in every layout', () => {
    const layouts = fc.constantFrom<WeightLayout>('rowMajor', 'panel16', 'panel16x2');
    const holds = fc.constantFrom<ParameterQuantization['holds']>('codes', 'scales');
    const source = fc.constantFrom<FloatDType>('float32', 'bfloat16', 'float16');
    fc.assert(
      fc.property(
        fc.constantFrom(...FORMATS),
        holds,
        source,
        layouts,
        fc.boolean(),
        (format, half, from, layout, turned) => {
          const columns = half === 'codes' ? COLUMNS : scaleColumns(format, COLUMNS);
          const spec = specOf({ format, holds: half, origin: 'quantize' }, columns, turned, layout);
          const view = tensor(from, spec.parts[0].tensorShape, 3);
          const packed = decodeTensor({
            dtype: spec.dtype,
            shape: [],
            bytes: packWeight(spec, sourceOf({ w: view })),
          });
          const expected = assembleWeight(spec, () => decodeTensor(view));
          expected.forEach((value, i) => {
            const at = address(layout, columns, Math.floor(i / columns), i % columns);
            expect(packed[at] + 0).toBe(value + 0);
          });
        },
      ),
    );
  });

  test('are made once of each weight, for its scales come with its codes', () => {
    const views: Record<string, TensorView> = {};
    const reads: string[] = [];
    const read = (name: string) => {
      reads.push(name);
      return views[name];
    };
    const packer = new WeightPacker({ read, close: () => undefined });
    for (const [i, name] of ['a', 'b'].entries()) {
      views[name] = tensor('bfloat16', [ROWS, COLUMNS], i);
      for (const format of FORMATS.slice(0, 2)) {
        for (const holds of ['codes', 'scales'] as const) {
          const columns = holds === 'codes' ? COLUMNS : scaleColumns(format, COLUMNS);
          const spec = specOf({ format, holds, origin: 'quantize' }, columns, false, 'rowMajor');
          const named = { ...spec, parts: spec.parts.map((part) => ({ ...part, tensor: name })) };
          expect(packer.pack(named)).toEqual(packWeight(named, sourceOf(views)));
        }
      }
    }
    expect(reads).toEqual(['a', 'a', 'b', 'b']);
  });

  test('are taken as they are from a checkpoint that has them', () => {
    const format = FORMATS[2];
    const codes = Uint8Array.from({ length: (ROWS * COLUMNS) / 2 }, (_, i) => (i * 7) & 0xff);
    const spec = specOf({ format, holds: 'codes', origin: 'checkpoint' }, COLUMNS, false, 'rowMajor');
    const view: TensorView = { dtype: 'uint4', shape: [ROWS, COLUMNS], bytes: codes };
    expect(packWeight(spec, sourceOf({ w: view }))).toEqual(codes);
    const floats = tensor('float32', [ROWS, COLUMNS], 1);
    expect(() => packWeight(spec, sourceOf({ w: floats }))).toThrow(
      'tensor w is float32, but the plan was compiled for uint4',
    );
  });

  test('are refused where a value has no scale, or a scale no value', () => {
    const format = FORMATS[0];
    const bad = tensor('float32', [ROWS, COLUMNS], 1);
    new DataView(bad.bytes.buffer).setFloat32(40, NaN, true);
    const made = specOf({ format, holds: 'codes', origin: 'quantize' }, COLUMNS, false, 'rowMajor');
    expect(() => packWeight(made, sourceOf({ w: bad }))).toThrow('tensor w holds NaN or infinite values');
    const stored = specOf({ format, holds: 'scales', origin: 'checkpoint' }, 1, false, 'rowMajor');
    const scales: TensorView = { dtype: 'float32', shape: [ROWS, 1], bytes: new Uint8Array(ROWS * 4) };
    expect(() => packWeight(stored, sourceOf({ w: scales }))).toThrow(
      'tensor w holds a scale of 0; the checkpoint is damaged, or was never calibrated',
    );
  });
});
