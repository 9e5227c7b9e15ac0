import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packWeight } from '../../compiler/pack-weight.ts';
import type { Plan, WeightSpec } from '../../compiler/plan.ts';
import { CpuRuntime } from '../../device/cpu/cpu-runtime.ts';
import { loadPlan } from '../../device/cpu/load-plan.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { WeightPart } from '../../ir/graph.ts';
import {
  itemSize,
  toBfloat16Bits,
  toFloat16Bits,
  type CodeDType,
  type FloatDType,
} from '../../tensor/dtype.ts';
import type { TensorSource, TensorView } from '../../tensor/tensor-source.ts';
import { scaleColumns, type WeightFormat } from '../../tensor/weight-format.ts';
import { randomValues } from '../../../test/support/check-launch.ts';
import { layoutBytes, type WeightLayout } from '../kernel.ts';

const DTYPES: readonly FloatDType[] = ['float32', 'bfloat16', 'float16'];
const LAYOUTS: readonly WeightLayout[] = ['rowMajor', 'panel16', 'panel16x2'];

/** Values of all magnitudes, ties of rounding among them. */
function tensor(dtype: FloatDType, shape: readonly number[], seed: number, largestExponent = 5): TensorView {
  const values = randomValues(shape[0] * shape[1], seed);
  const scaled = values.map((value, i) =>
    i % 5 === 0 ? Math.fround(1 + i / 512) : value * 10 ** ((i % 13) - 12 + largestExponent),
  );
  if (dtype === 'float32') return { dtype, shape, bytes: new Uint8Array(scaled.buffer) };
  const round = dtype === 'bfloat16' ? toBfloat16Bits : toFloat16Bits;
  return { dtype, shape, bytes: new Uint8Array(Uint16Array.from(scaled, round).buffer) };
}

const choices = fc
  .record({
    columns: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 250, max: 600 })),
    target: fc.constantFrom(...DTYPES),
    layout: fc.constantFrom(...LAYOUTS),
  })
  .chain((weight) => {
    const part = fc.record({
      rows: fc.integer({ min: 1, max: 70 }),
      rowStart: fc.integer({ min: 0, max: 5 }),
      rowStep: fc.integer({ min: 1, max: 3 }),
      columnStart: fc.integer({ min: 0, max: 3 }),
      spare: fc.integer({ min: 0, max: 3 }),
      transpose: fc.boolean(),
      dtype: fc.constantFrom(...DTYPES),
    });
    return fc.record({ weight: fc.constant(weight), parts: fc.array(part, { minLength: 1, maxLength: 3 }) });
  })
  .map(({ weight, parts }) => {
    const tensors = new Map<string, TensorView>();
    const weightParts = parts.map((part, i): WeightPart => {
      const rows = part.rowStart + part.rows * part.rowStep + part.spare;
      const columns = part.columnStart + weight.columns + part.spare;
      const tensorShape = part.transpose ? [columns, rows] : [rows, columns];
      tensors.set(`t${i}`, tensor(part.dtype, tensorShape, i + 1));
      const { transpose, rowStart, rowStep, columnStart } = part;
      const place = { rowStart, rowStep, rowCount: part.rows, columnStart, columnCount: weight.columns };
      return { name: `t${i}`, tensor: `t${i}`, tensorShape, transpose, ...place };
    });
    return { spec: specOf(weightParts, weight), tensors };
  });

function specOf(
  parts: readonly WeightPart[],
  { columns, target, layout }: { columns: number; target: FloatDType; layout: WeightLayout },
): WeightSpec {
  const rows = parts.reduce((sum, part) => sum + part.rowCount, 0);
  const bytes = layoutBytes(layout, rows, columns, itemSize(target));
  return {
    id: 0,
    name: 'w',
    dtype: target,
    shape: [rows, columns],
    layout,
    parts,
    quantization: null,
    bytes,
  };
}

/** Codes or scales of a weight whose parts are stacked, made of floats or as a checkpoint holds them. */
const quantizedChoices = fc
  .record({
    codes: fc.constantFrom('int8', 'uint4', 'float8_e4m3fn'),
    groupSize: fc.constantFrom(8, 24, 64, null),
    numGroups: fc.integer({ min: 1, max: 9 }),
    withZeros: fc.boolean(),
    holds: fc.constantFrom('codes', 'scales'),
    origin: fc.constantFrom('quantize', 'checkpoint'),
    parts: fc.array(
      fc.record({
        rows: fc.integer({ min: 1, max: 40 }),
        rowStart: fc.integer({ min: 0, max: 5 }),
        rowStep: fc.integer({ min: 1, max: 3 }),
        dtype: fc.constantFrom(...DTYPES),
        transpose: fc.boolean(),
      }),
      { minLength: 1, maxLength: 3 },
    ),
  })
  .map(({ codes, groupSize, numGroups, withZeros, holds, origin, parts }) => {
    const hasZeros = withZeros && codes === 'uint4';
    const format: WeightFormat = { dtype: codes, groupSize, hasZeros };
    const columns = groupSize === null ? 22 * numGroups : groupSize * numGroups;
    const stored = holds === 'codes' ? columns : scaleColumns(format, columns);
    const cut = origin === 'quantize' ? columns : stored;
    const tensors = new Map<string, TensorView>();
    const weightParts = parts.map(({ rows, rowStart, rowStep, dtype, transpose }, i): WeightPart => {
      const tensorRows = rowStart + rows * rowStep;
      const tensorShape = transpose ? [cut, tensorRows] : [tensorRows, cut];
      // Nothing that float16 cannot hold; and scales are no zeros.
      const floatDType = origin === 'quantize' ? dtype : 'float32';
      const floats = tensor(floatDType, tensorShape, i + 1, 4);
      const isOfFloats = origin === 'quantize' || holds === 'scales';
      const view = isOfFloats ? floats : codeTensor(codes, tensorShape);
      tensors.set(`t${i}`, view);
      const place = { rowStart, rowStep, rowCount: rows, columnStart: 0, columnCount: cut };
      return { name: `t${i}`, tensor: `t${i}`, tensorShape, transpose, ...place };
    });
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const [dtype, layout] =
      holds === 'codes' ? ([codes, 'panel16words'] as const) : (['float32', 'panel16'] as const);
    const spec: WeightSpec = {
      ...{ id: 0, name: 'w', dtype, shape: [rows, stored], layout, parts: weightParts },
      quantization: { format, holds, origin },
      bytes: layoutBytes(layout, rows, stored, itemSize(dtype)),
    };
    return { spec, tensors };
  });

function codeTensor(dtype: CodeDType, shape: readonly number[]): TensorView {
  const bytes = new Uint8Array(Math.ceil(shape[0] * shape[1] * itemSize(dtype)));
  return { dtype, shape, bytes: bytes.map((_, i) => (i * 37 + 11) % 251) };
}

function planOf(spec: WeightSpec): Plan {
  const nothing = { ropeTables: [], kvCacheGroups: [], buffers: [], launches: [] };
  return { weights: [spec], arenaBytes: 0, workspaceBytes: 0, blockSize: 16, ...nothing } as unknown as Plan;
}

describe.each(CpuLibrary.available())('packing on %s', (arch) => {
  let runtime: CpuRuntime;
  beforeAll(() => {
    runtime = new CpuRuntime(CpuLibrary.load(arch), 2);
  });
  afterAll(() => runtime.close());

  interface Choice {
    readonly spec: WeightSpec;
    readonly tensors: ReadonlyMap<string, TensorView>;
  }

  const sourceOf = ({ tensors }: Choice): TensorSource => ({
    read: (name) => tensors.get(name)!,
    close: () => undefined,
  });

  async function check(choice: Choice): Promise<void> {
    const { spec } = choice;
    const loaded = await loadPlan(planOf(spec), sourceOf(choice), { numBlocks: [] }, runtime);
    const view = runtime.library.view(loaded.placement.weights[0], spec.bytes);
    const packed = new Uint8Array(view).slice();
    loaded.free();
    expect(Buffer.compare(packed, packWeight(spec, sourceOf(choice)))).toBe(0);
  }

  it('lays out any parts of any types as the compiler does, byte for byte', async () => {
    await fc.assert(fc.asyncProperty(choices, check), { numRuns: 120 });
  });

  it('makes codes and scales as the compiler does, byte for byte', async () => {
    await fc.assert(fc.asyncProperty(quantizedChoices, check), { numRuns: 150 });
  });

  it('names a tensor that cannot be quantized', async () => {
    const values = randomValues(40 * 22, 1);
    values[500] = NaN;
    const view = { dtype: 'float32', shape: [40, 22], bytes: new Uint8Array(values.buffer) } as const;
    const place = { rowStart: 0, rowStep: 1, rowCount: 40, columnStart: 0, columnCount: 22 };
    const part = {
      name: 't',
      tensor: 'layers.0.up.weight',
      tensorShape: [40, 22],
      transpose: false,
      ...place,
    };
    for (const holds of ['codes', 'scales'] as const) {
      const [dtype, columns] = holds === 'codes' ? (['int8', 22] as const) : (['float32', 1] as const);
      const format = { dtype: 'int8', groupSize: null, hasZeros: false } as const;
      const layout = holds === 'codes' ? 'panel16words' : 'panel16';
      const spec: WeightSpec = {
        ...{ id: 0, name: 'w', dtype, shape: [40, columns], layout, parts: [part] },
        quantization: { format, holds, origin: 'quantize' },
        bytes: layoutBytes(layout, 40, columns, itemSize(dtype)),
      };
      const source = { read: () => view, close: () => undefined };
      const loading = loadPlan(planOf(spec), source, { numBlocks: [] }, runtime);
      await expect(loading).rejects.toMatchObject({ code: 'bad_checkpoint' });
      await expect(loading).rejects.toThrow('layers.0.up.weight holds NaN or infinite values');
    }
  });
});
