// Random operands of what makes the rows of a product: norms and gated activations.
import { matrix, type HarnessOperand, type Matrix } from './cpu-harness.ts';
import type { KernelSuite } from './kernel-suite.ts';

/** What is before a product of `inputs` columns. */
export interface Sources {
  readonly x: Matrix;
  readonly residual: Matrix;
  /** What gatedActivation halves. */
  readonly both: Matrix;
  readonly gain: HarnessOperand;
}

export function sourcesOf(kernels: KernelSuite, rows: number, inputs: number, view = {}): Sources {
  return {
    x: matrix(rows, inputs, kernels.random(rows * inputs, 1), view),
    residual: matrix(rows, inputs, kernels.random(rows * inputs, 2)),
    both: matrix(rows, 2 * inputs, kernels.random(2 * rows * inputs, 4, 3)),
    gain: kernels.vector(inputs, 3),
  };
}
