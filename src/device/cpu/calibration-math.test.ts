// The native arithmetic of calibration beside the plain one that defines it.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PLAIN_MATH, type CalibrationMath } from '../../tensor/calibration-math.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { CpuDevice } from './cpu-device.ts';

describe.each(CpuLibrary.available())('calibration on %s', (arch) => {
  let device: CpuDevice;
  let math: CalibrationMath;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 3, arch });
    math = device.calibrationMath;
  });
  afterAll(() => device.dispose());

  it('adds products of matrices of any size', async () => {
    const size = fc.integer({ min: 1, max: 70 });
    // More rows than a block has, more depth than a panel.
    const sizes = fc.oneof(
      fc.tuple(size, size, size),
      fc.constantFrom([300, 700, 33] as const, [257, 1, 16]),
    );
    const check = async ([rows, depth, columns]: readonly number[], gap: number): Promise<void> => {
      const matrix = (numRows: number, width: number) => {
        const stride = width + gap;
        return { values: waves(numRows * stride, width), stride };
      };
      const [a, b, c] = [matrix(rows, depth), matrix(depth, columns), matrix(rows, columns)];
      const plain = { ...c, values: c.values.slice() };
      await PLAIN_MATH.addProduct({ a, b, c: plain, rows, depth, columns });
      await math.addProduct({ a, b, c, rows, depth, columns });
      expect(distance(c.values, plain.values)).toBeLessThan(1e-3);
    };
    await fc.assert(fc.asyncProperty(sizes, fc.nat(3), check), { numRuns: 30 });
  });

  it.each([1, 40, 300, 521])('adds the lower half of a symmetric product of %i rows', async (rows) => {
    const depth = 3;
    const x = waves(rows * depth, 1);
    const turned = x.map((_, i) => x[(i % rows) * depth + Math.floor(i / rows)]);
    const [plain, native] = [0, 1].map(() => ({ values: waves(rows * rows, 2), stride: rows }));
    const product = { a: { values: x, stride: depth }, b: { values: turned, stride: rows }, rows, depth };
    await PLAIN_MATH.addProduct({ ...product, c: plain, columns: rows });
    await math.addProduct({ ...product, c: native, columns: rows, isSymmetric: true });
    const isLower = (i: number): boolean => i % rows <= Math.floor(i / rows);
    const lower = [plain, native].map(({ values }) => values.map((value, i) => (isLower(i) ? value : 0)));
    expect(distance(lower[0], lower[1])).toBeLessThan(1e-4);
  });

  // Rows beside those of whole tiles, groups that no number of rows of a product divides.
  const shapes = fc.record({
    rows: fc.integer({ min: 1, max: 70 }),
    numGroups: fc.integer({ min: 1, max: 3 }),
    groupSize: fc.constantFrom(1, 2, 13, 32, 128),
    seed: fc.nat(1000),
  });

  it('finds ranges that cost as little', async () => {
    const shares = Float32Array.of(1, 0.85, 0.7);
    const check = async (shape: { rows: number; numGroups: number; groupSize: number; seed: number }) => {
      const { rows, numGroups, groupSize, seed } = shape;
      const columns = numGroups * groupSize;
      const values = waves(rows * columns, seed);
      const triangles = gramTriangles(numGroups, groupSize, seed);
      const search = { values, columns, groupSize, triangles, shares };
      const found = (by: CalibrationMath) => {
        const codes = new Float32Array(values.length);
        const scales = new Float32Array(2 * rows * numGroups);
        return by.searchRanges({ ...search, codes, scales }).then(() => ({ codes, scales }));
      };
      const [plain, native] = [await found(PLAIN_MATH), await found(math)];
      let numWorse = 0;
      for (let start = 0; start < values.length; start += groupSize) {
        const group = (start % columns) / groupSize;
        const triangle = triangles.subarray(group * groupSize * groupSize);
        const [expected, actual] = [plain, native].map((made) =>
          lossOf(values, made.codes, made.scales, start, groupSize, triangle),
        );
        if (actual > expected * 1.001 + 1e-9) numWorse++;
      }
      // Where a value lies halfway between two codes the last bit of a sum decides.
      expect(numWorse).toBeLessThanOrEqual(Math.ceil(0.02 * rows * numGroups));
    };
    await fc.assert(fc.asyncProperty(shapes, check), { numRuns: 40 });
  });

  it('rounds columns to the same codes', async () => {
    const check = async (shape: { rows: number; numGroups: number; groupSize: number; seed: number }) => {
      const { rows, numGroups, groupSize, seed } = shape;
      const columns = numGroups * groupSize;
      const [start, end] = [Math.max(0, columns - 128 - (seed % 5)), columns - (seed % Math.min(3, columns))];
      const from = Math.max(start, end - 128);
      const order = Int32Array.from({ length: columns }, (_, i) => (i * 7 + seed) % columns);
      if (new Set(order).size < columns) order.forEach((_, i) => (order[i] = columns - 1 - i));
      const [values, sums] = [waves(rows * columns, seed), waves(rows * (end - from), seed + 1)];
      const factor = waves(columns * columns, seed + 2).map((value, i) =>
        i % (columns + 1) === 0 ? 2 + value : value / 16,
      );
      const scales = waves(2 * rows * numGroups, seed).map((value, i) =>
        i % 2 === 0 ? 0.1 + value ** 2 : 8 * value,
      );
      const rounded = (by: CalibrationMath) => {
        const [codes, errors] = [0, 1].map(() => new Float32Array(values.length));
        const given = { values, scales, groupSize, order, factor, start: from, end, sums };
        return by.roundColumns({ ...given, codes, errors }).then(() => ({ codes, errors }));
      };
      const [plain, native] = [await rounded(PLAIN_MATH), await rounded(math)];
      const isSame = (row: number) => {
        const codes = [plain, native].map((made) => made.codes.subarray(row * columns, (row + 1) * columns));
        return codes[0].every((code, i) => code === codes[1][i]);
      };
      // After a value halfway between two codes all may differ.
      const numSame = Array.from({ length: rows }, (_, row) => isSame(row)).filter(Boolean).length;
      expect(numSame).toBeGreaterThanOrEqual(rows - Math.ceil(rows / 20));
      if (numSame === rows) expect(distance(native.errors, plain.errors)).toBeLessThan(1e-4);
    };
    await fc.assert(fc.asyncProperty(shapes, check), { numRuns: 40 });
  });
});

function waves(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(seed + 1.7 * i * (i + seed)));
}

function distance(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
}

/** Of Gram matrices of some rows: positive semidefinite. */
function gramTriangles(numGroups: number, size: number, seed: number): Float32Array {
  const numRows = 5;
  const x = waves(numRows * numGroups * size, seed + 3);
  return Float32Array.from({ length: numGroups * size * size }, (_, i) => {
    const [group, row, column] = [Math.floor(i / size ** 2), Math.floor(i / size) % size, i % size];
    if (column > row) return 0;
    let sum = 0;
    for (let r = 0; r < numRows; r++) {
      const first = (group * numRows + r) * size;
      sum += x[first + row] * x[first + column];
    }
    return row === column ? sum + 0.1 : 2 * sum;
  });
}

/** eTeᵀ of the group that starts at `start`. */
function lossOf(
  values: Float32Array,
  codes: Float32Array,
  scales: Float32Array,
  start: number,
  size: number,
  triangle: Float32Array,
): number {
  const [scale, zero] = scales.subarray((2 * start) / size);
  const error = (i: number): number => (codes[start + i] - zero) * scale - values[start + i];
  let loss = 0;
  for (let i = 0; i < size * size; i++) {
    loss += error(Math.floor(i / size)) * triangle[i] * error(i % size);
  }
  return loss;
}
