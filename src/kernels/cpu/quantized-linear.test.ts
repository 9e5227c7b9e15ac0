import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { CodeDType } from '../../tensor/dtype.ts';
import { roundToFloat8E4M3 } from '../../tensor/float8.ts';
import { checkLaunch, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix, type HarnessLaunch, type HarnessOperand } from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';
import type { KernelQuery } from '../kernel.ts';
import { quantizedGroupedLinear, quantizedLinear, weightOnlyLinear } from './quantized-linear.ts';

type CodeX = 'int8' | 'float8_e4m3fn' | null;

interface Product {
  readonly weightDType: CodeDType;
  /** null: activations are floats. */
  readonly x: CodeX;
}

const PRODUCTS: readonly Product[] = [
  { weightDType: 'int8', x: null },
  { weightDType: 'uint4', x: null },
  { weightDType: 'float8_e4m3fn', x: null },
  { weightDType: 'int8', x: 'int8' },
  { weightDType: 'uint4', x: 'int8' },
  { weightDType: 'float8_e4m3fn', x: 'float8_e4m3fn' },
];

/** Random codes as the numbers that they are. */
function codes(dtype: CodeDType, count: number, seed: number): Float32Array {
  const random = randomValues(count, seed);
  if (dtype === 'float8_e4m3fn')
    return random.map((value, i) => roundToFloat8E4M3(value * 448 * 2 ** -(i % 17)));
  return random.map((value) => (dtype === 'uint4' ? Math.floor(7.99 * value + 8) : Math.round(127 * value)));
}

function positive(count: number, seed: number): Float32Array {
  return randomValues(count, seed).map((value) => 0.02 + 0.01 * value);
}

interface Shape {
  readonly rows: number;
  readonly outputs: number;
  /** Columns of one matrix, `groupSize` being a part of them. */
  readonly columns: number;
  readonly groupSize: number;
  readonly xGroupSize: number;
  readonly hasZeros: boolean;
  readonly hasBias: boolean;
  readonly padding: number;
}

/** A weight of `rows` rows and its scales. */
function weightOperands(
  { weightDType }: Product,
  rows: number,
  { columns, groupSize, hasZeros }: Shape,
): HarnessOperand[] {
  const scales = positive((rows * columns) / groupSize, 5);
  const zero = (i: number): number => (weightDType === 'uint4' ? i % 16 : (i % 7) - 3);
  const pairs = Float32Array.from({ length: 2 * scales.length }, (_, i) =>
    i % 2 === 0 ? scales[i / 2] : zero(i),
  );
  const perRow = (hasZeros ? 2 : 1) * (columns / groupSize);
  return [
    {
      kind: 'weight',
      values: codes(weightDType, rows * columns, 2),
      shape: [rows, columns],
      dtype: weightDType,
      layout: 'panel16words',
    },
    {
      kind: 'weight',
      values: hasZeros ? pairs : scales,
      shape: [rows, perRow],
      dtype: 'float32',
      layout: 'panel16',
    },
  ];
}

/** Activations, of codes with their scales. */
function xOperands({ x }: Product, columns: number, { rows, xGroupSize, padding }: Shape): HarnessOperand[] {
  const view = { columnStart: padding, rowStride: columns + 2 * padding };
  if (x === null) return [matrix(rows, columns, randomValues(rows * columns, 1), view)];
  const groups = columns / xGroupSize;
  return [
    matrix(rows, columns, codes(x, rows * columns, 1), { ...view, dtype: x }),
    matrix(rows, groups, positive(rows * groups, 4), { columnStart: padding }),
  ];
}

function productAttributes({ weightDType, x }: Product, { groupSize, hasZeros, xGroupSize }: Shape) {
  return { weightDType, groupSize, hasZeros, ...(x !== null && { xGroupSize }) };
}

function linearOf(product: Product, shape: Shape): HarnessLaunch {
  const { rows, outputs, columns, hasBias, padding } = shape;
  const attributes = productAttributes(product, shape);
  const bias: HarnessOperand = hasBias ? matrix(1, outputs, randomValues(outputs, 3)) : { kind: 'none' };
  return {
    op: product.x === null ? 'weightOnlyLinear' : 'quantizedLinear',
    attributes,
    inputs: [...xOperands(product, columns, shape), ...weightOperands(product, outputs, shape), bias],
    outputs: [matrix(rows, outputs, undefined, { columnStart: padding, rowStride: outputs + 2 * padding })],
    query: { attributes, maxRows: rows, weightRows: outputs, weightColumns: columns },
  };
}

interface GroupedShape extends Shape {
  readonly numMatrices: number;
  /** Named by ids; null: all, without ids. */
  readonly matricesPerToken: number | null;
  /** Each matrix has columns of x of its own. */
  readonly isWide: boolean;
}

function groupedOf(product: Product, shape: GroupedShape): HarnessLaunch {
  const { rows, outputs, columns, numMatrices, matricesPerToken, isWide, hasBias } = shape;
  const perToken = matricesPerToken ?? numMatrices;
  const attributes = {
    numMatrices,
    matricesPerToken: perToken,
    ...productAttributes(product, shape),
  };
  // Some matrices stay without rows, others get many.
  const ids = Int32Array.from({ length: rows * perToken }, (_, i) => ((i * i + rows) % 7) % numMatrices);
  const allOutputs = numMatrices * outputs;
  return {
    op: product.x === null ? 'weightOnlyGroupedLinear' : 'quantizedGroupedLinear',
    attributes,
    inputs: [
      ...xOperands(product, isWide ? perToken * columns : columns, shape),
      ...weightOperands(product, allOutputs, shape),
      matricesPerToken === null ? { kind: 'none' } : matrix(rows, perToken, ids),
      hasBias && matricesPerToken !== null
        ? matrix(1, allOutputs, randomValues(allOutputs, 3))
        : { kind: 'none' },
    ],
    outputs: [matrix(rows, perToken * outputs, undefined, { columnStart: 1 })],
    query: { attributes, maxRows: rows, weightRows: allOutputs, weightColumns: columns },
  };
}

/** Groups are the whole row, or multiples of 8 columns, of which x's may be other multiples. */
const shapes = fc
  .record({
    rows: fc.oneof(fc.integer({ min: 1, max: 13 }), fc.integer({ min: 1, max: 60 })),
    outputs: fc.integer({ min: 1, max: 100 }),
    halfColumns: fc.integer({ min: 1, max: 150 }),
    groups: fc.option(
      fc.record({
        unit: fc.constantFrom(8, 24, 64),
        weightUnits: fc.integer({ min: 1, max: 3 }),
        xUnits: fc.integer({ min: 1, max: 3 }),
        count: fc.integer({ min: 1, max: 3 }),
      }),
    ),
    hasZeros: fc.boolean(),
    hasBias: fc.boolean(),
    padding: fc.constantFrom(0, 3),
  })
  .map(({ halfColumns, groups, ...rest }): Shape => {
    if (!groups) {
      const columns = 2 * halfColumns; // uint4 comes in pairs
      return { ...rest, columns, groupSize: columns, xGroupSize: columns };
    }
    const { unit, weightUnits, xUnits, count } = groups;
    const columns = unit * weightUnits * xUnits * count;
    return { ...rest, columns, groupSize: unit * weightUnits, xGroupSize: unit * xUnits };
  });

const groupedShapes = fc
  .record({
    shape: shapes,
    numMatrices: fc.integer({ min: 1, max: 6 }),
    matricesPerToken: fc.constantFrom(null, 1, 2, 5),
    isWide: fc.boolean(),
  })
  .map(({ shape, ...rest }): GroupedShape => ({ ...shape, ...rest }));

/** Sums of many numbers lose more. */
function toleranceOf({ columns }: Shape): number {
  return Math.max(5e-6, 1e-6 * Math.sqrt(columns));
}

const KERNELS = CpuLibrary.available().flatMap((arch) => PRODUCTS.map((product) => ({ arch, ...product })));

describe.each(KERNELS)('$weightDType weights, x of $x, on $arch', ({ arch, ...product }) => {
  const cpu = useCpuSession(arch);

  it('multiplies matrices of any shape and any groups', async () => {
    const check = (shape: Shape): Promise<void> =>
      checkLaunch(cpu.session, linearOf(product, shape), plainStep(shape.rows), {
        tolerance: toleranceOf(shape),
        leastScale: 1,
      });
    await fc.assert(fc.asyncProperty(shapes, check), { numRuns: 60 });
  });

  it('multiplies every number of rows, and rows longer than a thread packs for itself', async () => {
    const shape = { outputs: 33, hasZeros: true, hasBias: true, padding: 0, xGroupSize: 16 };
    for (let rows = 1; rows <= 26; rows++) {
      const launch = linearOf(product, { ...shape, rows, columns: 48, groupSize: 48 });
      await checkLaunch(cpu.session, launch, plainStep(rows), { tolerance: 5e-6 });
    }
    const columns = 36_000;
    const long = { ...shape, outputs: 3, columns, groupSize: columns, xGroupSize: columns, hasZeros: false };
    for (const rows of [1, 2]) {
      await checkLaunch(cpu.session, linearOf(product, { ...long, rows }), plainStep(rows), {
        tolerance: 2e-5,
      });
    }
  });

  it('sends rows through their matrices', async () => {
    const check = (shape: GroupedShape): Promise<void> =>
      checkLaunch(cpu.session, groupedOf(product, shape), plainStep(shape.rows), {
        tolerance: toleranceOf(shape),
        leastScale: 1,
      });
    await fc.assert(fc.asyncProperty(groupedShapes, check), { numRuns: 40 });
  });

  it('keeps the rows apart: what is not finite stays in its row', async () => {
    const [rows, columns] = [29, 96];
    const shape = { rows, columns, outputs: 33, groupSize: 32, xGroupSize: 32, padding: 0 };
    const launch = linearOf(product, { ...shape, hasZeros: true, hasBias: false });
    // What is not finite among codes shows in the scales.
    const operand = launch.inputs[product.x === null ? 0 : 1];
    if (operand.kind !== 'matrix') throw new Error('no matrix');
    operand.values![3 * operand.columns + 1] = NaN;
    operand.values![20 * operand.columns] = Infinity;
    const [y] = await cpu.session.run([launch], plainStep(rows));
    for (let row = 0; row < rows; row++) {
      const isFinite = y.subarray(row * 33, (row + 1) * 33).every(Number.isFinite);
      expect(isFinite, `row ${row}`).toBe(row !== 3 && row !== 20);
    }
  });
});

describe.each(CpuLibrary.available())('sums of integers on %s', (arch) => {
  const cpu = useCpuSession(arch);

  it('hold the largest codes', async () => {
    const columns = 70_000;
    const product = { weightDType: 'int8', x: 'int8' } as const;
    const shape = { rows: 1, outputs: 2, columns, groupSize: columns, xGroupSize: columns };
    const launch = linearOf(product, { ...shape, hasZeros: false, hasBias: false, padding: 0 });
    for (const operand of [launch.inputs[0], launch.inputs[2]]) {
      if ('values' in operand) operand.values.fill(127);
    }
    const [y] = await cpu.session.run([launch], plainStep(1));
    const scales = [launch.inputs[1], launch.inputs[3]].map((operand) =>
      'values' in operand ? operand.values : [],
    );
    y.forEach((value, i) =>
      expect(value / (columns * 127 ** 2 * scales[0][0] * scales[1][i])).toBeCloseTo(1, 5),
    );
  });
});

describe('groups that no kernel can take', () => {
  const query = { arch: 'avx512', weightColumns: 24 } as unknown as KernelQuery;
  const lacks = (attributes: object, description = quantizedLinear) =>
    description.lacks!({ ...query, attributes: attributes as KernelQuery['attributes'] });

  it('are named', () => {
    expect(lacks({ weightDType: 'int8', groupSize: 24, xGroupSize: 24 })).toBeNull();
    expect(lacks({ weightDType: 'uint4', groupSize: 8, xGroupSize: 24 })).toBeNull();
    expect(lacks({ weightDType: 'uint4', groupSize: 12, xGroupSize: 24 })).toContain('12 columns of uint4');
    expect(lacks({ weightDType: 'int8', groupSize: 6 }, weightOnlyLinear)).toContain('6 columns of int8');
    expect(lacks({ weightDType: 'int8', groupSize: 12, xGroupSize: 8 }, quantizedGroupedLinear)).toBeNull();
  });
});
