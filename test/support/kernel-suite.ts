// Suites of kernels on the GPU: random operands in each type of activations, and how near the definition a result must come.
import { afterAll, beforeAll, describe } from 'vitest';
import type { Attributes } from '../../src/ir/graph.ts';
import { roundTo, type FloatDType } from '../../src/tensor/dtype.ts';
import { plainStep, randomValues } from './check-launch.ts';
import type { HarnessOperand, Matrix } from './cpu-harness.ts';
import { CudaHarness } from './cuda-harness.ts';
import { describeCuda } from './cuda.ts';
import type { CudaCase } from './single-launch.ts';

/** Of the largest value: a few roundings of the type. */
export const TOLERANCES = { float32: 2e-5, float16: 3e-3, bfloat16: 2e-2 } as const;

export const NO_OPERAND: HarnessOperand = { kind: 'none' };

/** What a suite of one type of activations works with. */
export class KernelSuite {
  readonly dtype: FloatDType;
  readonly tolerance: number;
  readonly #harness: () => CudaHarness;

  constructor(dtype: FloatDType, harness: () => CudaHarness) {
    this.dtype = dtype;
    this.tolerance = TOLERANCES[dtype];
    this.#harness = harness;
  }

  /** Numbers of the suite's type in [−scale, scale). */
  random(count: number, seed: number, scale = 1): Float32Array {
    return randomValues(count, seed).map((value) => roundTo(this.dtype, scale * value));
  }

  weight(shape: readonly number[], seed: number): HarnessOperand {
    const count = shape.reduce((product, size) => product * size, 1);
    return { kind: 'weight', values: this.random(count, seed), shape, dtype: this.dtype, layout: 'rowMajor' };
  }

  vector(size: number, seed: number): HarnessOperand {
    return this.weight([size], seed);
  }

  /** One launch by each of its kernels; the first output tells the rows. A tolerance for all outputs, or one for each. */
  check(
    op: string,
    attributes: Attributes,
    inputs: readonly HarnessOperand[],
    outputs: readonly HarnessOperand[],
    tolerance: number | readonly number[] = this.tolerance,
  ): Promise<void> {
    const [{ rows }] = outputs as readonly Matrix[];
    return this.checkCase({ launch: { op, attributes, inputs, outputs }, step: plainStep(rows) }, tolerance);
  }

  checkCase(
    testCase: Omit<CudaCase, 'dtype'>,
    tolerance: number | readonly number[] = this.tolerance,
  ): Promise<void> {
    return this.#harness().check({ ...testCase, dtype: this.dtype }, tolerance);
  }
}

/** The same suite in every type of activations; skipped, with a reason, where no GPU is. */
export function describeKernels(title: string, suite: (kernels: KernelSuite) => void): void {
  describeCuda(title, () => {
    let harness: CudaHarness;
    beforeAll(async () => {
      harness = await CudaHarness.open();
    });
    afterAll(() => harness.close());

    describe.each(['float32', 'float16', 'bfloat16'] as const)('%s', (dtype) =>
      suite(new KernelSuite(dtype, () => harness)),
    );
  });
}
