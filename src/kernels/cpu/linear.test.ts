import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { roundTo } from '../../tensor/dtype.ts';
import { checkLaunch, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import {
  matrix,
  type HarnessLaunch,
  type HarnessOperand,
  type Matrix,
} from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';
import type { KernelQuery } from '../kernel.ts';
import { linear } from './linear.ts';

interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
}

const BASE_QUERY = {
  weightFormat: null,
  kvDType: 'float32',
  activationDType: 'float32',
  maxRows: 1,
  weightRows: 1,
  weightColumns: 1,
  attributes: {},
} as const;

const products = CpuLibrary.available().flatMap((arch) =>
  (['float32', 'bfloat16', 'float16'] as const).flatMap((weightDType) =>
    (['auto', 'float32'] as const).map((activationPrecision) => {
      const query: KernelQuery = { ...BASE_QUERY, arch, weightDType, activationPrecision };
      return { query, kernel: linear.variants(query)[0].kernel, arch };
    }),
  ),
);
/** Each kernel of each instruction set once. */
const KERNELS = products.filter(
  (product, i) =>
    products.findIndex(({ kernel, arch }) => kernel === product.kernel && arch === product.arch) === i,
);

function launchOf(
  query: KernelQuery,
  { rows, columns, depth }: Shape,
  options: { bias?: boolean; x?: Float32Array; padding?: number } = {},
): HarnessLaunch {
  const { bias = false, x = randomValues(rows * depth, 1), padding = 0 } = options;
  // That a kernel rounds activations is no error of it: this one gets them rounded.
  const rounded = linear.variants(query)[0].kernel.endsWith('_dot')
    ? x.map((v) => roundTo('bfloat16', v))
    : x;
  const weight: HarnessOperand = {
    kind: 'weight',
    values: randomValues(columns * depth, 2),
    shape: [columns, depth],
    dtype: query.weightDType,
    layout: linear.weightLayout(query),
  };
  const biasOperand: HarnessOperand = bias ? matrix(1, columns, randomValues(columns, 3)) : { kind: 'none' };
  return {
    op: 'linear',
    attributes: {},
    inputs: [
      matrix(rows, depth, rounded, { columnStart: padding, rowStride: depth + 2 * padding }),
      weight,
      biasOperand,
    ],
    outputs: [matrix(rows, columns, undefined, { columnStart: padding, rowStride: columns + 2 * padding })],
    query,
  };
}

describe.each(KERNELS)('$kernel on $arch', ({ query, arch, kernel }) => {
  const cpu = useCpuSession(arch);

  it('multiplies matrices of any shape', async () => {
    const shape = fc.record({
      rows: fc.oneof(fc.integer({ min: 1, max: 13 }), fc.integer({ min: 1, max: 70 })),
      columns: fc.integer({ min: 1, max: 130 }),
      depth: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 600 })),
      bias: fc.boolean(),
      padding: fc.constantFrom(0, 3),
    });
    await fc.assert(
      fc.asyncProperty(shape, (choice) => check(choice, choice)),
      { numRuns: 40 },
    );
  });

  it('multiplies every number of rows', async () => {
    for (let rows = 1; rows <= 26; rows++) await check({ rows, columns: 48, depth: 37 }, { bias: true });
  });

  it('multiplies rows longer than a thread packs for itself', async () => {
    for (const rows of [1, 2]) await check({ rows, columns: 17, depth: 16_395 }, {});
  });

  it('keeps the rows apart: what is not finite stays in its row', async () => {
    const [rows, depth] = [29, 70];
    const x = randomValues(rows * depth, 1);
    x[3 * depth + 69] = NaN;
    x[20 * depth] = Infinity;
    const launch = launchOf(query, { rows, columns: 33, depth }, { x });
    const [y] = await cpu.session.run([launch], plainStep(rows));
    for (let row = 0; row < rows; row++) {
      const isFinite = y.subarray(row * 33, (row + 1) * 33).every(Number.isFinite);
      expect(isFinite, `row ${row}`).toBe(row !== 3 && row !== 20);
    }
  });

  it.runIf(kernel.endsWith('_dot'))('rounds activations to the nearest bfloat16', async () => {
    const shape = { rows: 3, columns: 20, depth: 333 };
    const rounded = launchOf(query, shape);
    const [x, ...others] = rounded.inputs;
    const exact = matrix(shape.rows, shape.depth, randomValues(shape.rows * shape.depth, 1));
    expect((x as Matrix).values).not.toEqual(exact.values);
    const [expected] = await cpu.session.run([rounded], plainStep(3));
    const [actual] = await cpu.session.run([{ ...rounded, inputs: [exact, ...others] }], plainStep(3));
    expect(actual).toEqual(expected);
  });

  function check(shape: Shape, options: { bias?: boolean; padding?: number }): Promise<void> {
    const tolerance = 1e-6 * Math.sqrt(shape.depth);
    return checkLaunch(cpu.session, launchOf(query, shape, options), plainStep(shape.rows), {
      tolerance,
      leastScale: 1,
    });
  }
});
