import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packWeight } from '../../compiler/pack-weight.ts';
import type { Plan, WeightSpec } from '../../compiler/plan.ts';
import { CpuRuntime } from '../../device/cpu/cpu-runtime.ts';
import { loadPlan } from '../../device/cpu/load-plan.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { WeightPart } from '../../ir/graph.ts';
import { itemSize, toBfloat16Bits, toFloat16Bits, type FloatDType } from '../../tensor/dtype.ts';
import type { TensorSource, TensorView } from '../../tensor/tensor-source.ts';
import { randomValues } from '../../../test/support/check-launch.ts';
import { layoutBytes, type WeightLayout } from '../kernel.ts';

const DTYPES: readonly FloatDType[] = ['float32', 'bfloat16', 'float16'];
const LAYOUTS: readonly WeightLayout[] = ['rowMajor', 'panel16', 'panel16x2'];

/** Values of all magnitudes, ties of rounding among them. */
function tensor(dtype: FloatDType, shape: readonly number[], seed: number): TensorView {
  const values = randomValues(shape[0] * shape[1], seed);
  const scaled = values.map((value, i) =>
    i % 5 === 0 ? Math.fround(1 + i / 512) : value * 10 ** ((i % 13) - 7),
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

  it('lays out any parts of any types as the compiler does, byte for byte', async () => {
    await fc.assert(
      fc.asyncProperty(choices, async ({ spec, tensors }) => {
        const source: TensorSource = { read: (name) => tensors.get(name)!, close: () => undefined };
        const loaded = await loadPlan(planOf(spec), source, { numBlocks: [] }, runtime);
        const view = runtime.library.view(loaded.placement.weights[0], spec.bytes);
        const packed = new Uint8Array(view).slice();
        loaded.free();
        expect(Buffer.compare(packed, packWeight(spec, source))).toBe(0);
      }),
      { numRuns: 120 },
    );
  });
});
