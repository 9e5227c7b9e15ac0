// Weights quantized, cut and laid out on the GPU against packWeight, to the last bit.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { packWeight } from '../../compiler/pack-weight.ts';
import type { Plan, WeightSpec } from '../../compiler/plan.ts';
import type { ParameterQuantization, WeightPart } from '../../ir/graph.ts';
import { itemSize, type DType } from '../../tensor/dtype.ts';
import type { PackedWeightSource, TensorSource, TensorView } from '../../tensor/tensor-source.ts';
import { scaleColumns, type WeightFormat } from '../../tensor/weight-format.ts';
import { randomValues } from '../../../test/support/check-launch.ts';
import { describeCuda } from '../../../test/support/cuda.ts';
import { encode, readDevice } from '../../../test/support/device-bytes.ts';
import { CudaDevice } from './cuda-device.ts';
import { DeviceMemoryPool } from './device-memory.ts';
import { loadWeights } from './load-weights.ts';

const COLUMNS = 256;
const FORMATS: readonly WeightFormat[] = [
  { dtype: 'int8', groupSize: null, hasZeros: false },
  { dtype: 'float8_e4m3fn', groupSize: null, hasZeros: false },
  { dtype: 'uint4', groupSize: 128, hasZeros: true },
  { dtype: 'uint4', groupSize: 32, hasZeros: false },
];

/** Whole tensors, every second row of the middle columns, and a transposed one. */
const PARTS: readonly WeightPart[] = [
  part({ tensor: 'whole', tensorShape: [5, COLUMNS], rowCount: 5 }),
  part({
    tensor: 'cut',
    tensorShape: [8, 2 * COLUMNS],
    rowStart: 1,
    rowCount: 3,
    rowStep: 2,
    columnStart: 64,
  }),
];
const TRANSPOSED = part({
  tensor: 'turned',
  tensorShape: [2 * COLUMNS, 7],
  rowStart: 2,
  rowCount: 4,
  columnStart: COLUMNS,
  transpose: true,
});

function part(
  changes: Partial<WeightPart> & Pick<WeightPart, 'tensor' | 'tensorShape' | 'rowCount'>,
): WeightPart {
  const cut = { rowStart: 0, rowStep: 1, columnStart: 0, columnCount: COLUMNS, transpose: false };
  return { name: changes.tensor, ...cut, ...changes };
}

function randomSource(dtypeOf: (name: string) => DType): TensorSource {
  return {
    read(name): TensorView {
      const { tensorShape: shape } = [...PARTS, TRANSPOSED].find(({ tensor }) => tensor === name)!;
      const dtype = dtypeOf(name);
      const values = randomValues(shape[0] * shape[1], name.length);
      // The first rows of zeros: their scale is 1.
      values.fill(0, 0, 300);
      const codes = dtype === 'uint4' ? values.map((value) => Math.floor(7.99 * (value + 1))) : values;
      return { dtype, shape, bytes: encode(dtype, codes) };
    },
    close: () => undefined,
  };
}

function weight(
  id: number,
  parts: readonly WeightPart[],
  dtype: DType,
  columns: number,
  quantization: ParameterQuantization,
): WeightSpec {
  const rows = parts.reduce((sum, { rowCount }) => sum + rowCount, 0);
  const layout = dtype === 'uint4' ? 'evenOdd' : 'rowMajor';
  const bytes = rows * columns * itemSize(dtype);
  return { id, name: '', dtype, shape: [rows, columns], layout, parts, quantization, bytes };
}

describeCuda('weights on the GPU', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  /** What lies on the device of each weight. */
  async function loaded(
    weights: readonly WeightSpec[],
    source: TensorSource | PackedWeightSource,
  ): Promise<Uint8Array[]> {
    const { runtime } = device;
    const pool = new DeviceMemoryPool(runtime);
    try {
      const places = weights.map(({ bytes }) => pool.allocate(bytes));
      const plan = { weights, ropeTables: [] } as unknown as Plan;
      await loadWeights(plan, { weights: places, ropeTables: [] }, source, { numBlocks: [] }, runtime);
      return weights.map(({ id, bytes }) => readDevice(runtime, places[id], bytes));
    } finally {
      pool.freeAll();
    }
  }

  async function expectPacked(weights: readonly WeightSpec[], source: TensorSource): Promise<void> {
    expect(await loaded(weights, source)).toEqual(weights.map((spec) => packWeight(spec, source)));
  }

  it.each(FORMATS)('quantized from floats to %j', async (format) => {
    for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
      const parts = [...PARTS, TRANSPOSED];
      const origin = 'quantize';
      const weights = [
        weight(0, parts, format.dtype, COLUMNS, { format, holds: 'codes', origin }),
        weight(1, parts, 'float32', scaleColumns(format, COLUMNS), { format, holds: 'scales', origin }),
      ];
      await expectPacked(
        weights,
        randomSource(() => dtype),
      );
    }
  });

  it.each(FORMATS)('of a checkpoint with codes, %j', async (format) => {
    const quantization = { format, holds: 'codes', origin: 'checkpoint' } as const;
    const parts = format.dtype === 'uint4' ? PARTS : [...PARTS, TRANSPOSED];
    await expectPacked(
      [weight(0, parts, format.dtype, COLUMNS, quantization)],
      randomSource(() => format.dtype),
    );
  });

  it('of a plan directory', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
    const file = path.join(folder, 'weights.bin');
    const [format] = FORMATS;
    const weights = [0, 1].map((id) =>
      weight(id, PARTS, 'int8', COLUMNS, { format, holds: 'codes', origin: 'checkpoint' }),
    );
    const [bytes] = weights.map((spec) => spec.bytes);
    const stored = Uint8Array.from({ length: 2 * bytes }, (_, i) => (i * 31) >> 3);
    writeFileSync(file, stored);
    const unread = (): never => {
      throw new Error('it lies in the file');
    };
    const source = {
      path: file,
      offsetOf: (id: number) => id * bytes,
      readPacked: unread,
      close: () => undefined,
    };
    expect(await loaded(weights, source)).toEqual([stored.slice(0, bytes), stored.slice(bytes)]);
    rmSync(folder, { recursive: true });
  });

  it('of values that are not finite are refused, with the tensor', async () => {
    const [format] = FORMATS;
    const values = new Float32Array(5 * COLUMNS).fill(1);
    values[700] = NaN;
    const source = {
      read: () => ({ dtype: 'float32', shape: [5, COLUMNS], bytes: encode('float32', values) }) as const,
      close: () => undefined,
    };
    const parts = PARTS.slice(0, 1);
    const weights = [
      weight(0, parts, 'int8', COLUMNS, { format, holds: 'codes', origin: 'quantize' }),
      weight(1, parts, 'float32', 1, { format, holds: 'scales', origin: 'quantize' }),
    ];
    await expect(expectPacked(weights, source)).rejects.toThrow('tensor whole holds NaN or infinite values');
  });
});
