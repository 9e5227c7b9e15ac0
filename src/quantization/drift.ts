// What quantized layers leave to those behind them: inputs that have drifted from the float model's, and weights that make
// up for it.
import type { AddProduct } from '../tensor/matrix-product.ts';
import { solveCholesky, type CholeskyFactor } from './cholesky.ts';

/** What calibration knows of a product's inputs x̃ in the model of which all before the product is quantized. */
export interface DriftStatistics {
  /** Mean of x̃ᵀx̃, `[columns, columns]`. */
  readonly gram: Float32Array;
  /** Mean of (x − x̃)ᵀx̃ for the float model's inputs x, `[columns, columns]`; null where no x belongs to an x̃. */
  readonly drift: Float32Array | null;
}

/** Drift is made up for by half: all of it would fit the text that was read instead of the model. */
const DRIFT_SHARE = 0.5;

/**
 * Weights `[rows, columns]` which, multiplied with the inputs x̃ that there will be, come closer to what the float model
 * had: W + share · (W·drift + residual) · gram⁻¹, the way to the least squares of W·x − W′·x̃ (Li et al., "GPTAQ", 2025). What
 * the result is added to, if it is, has drifted as well: `residual` is the mean of (r − r̃)ᵀx̃, `[rows, columns]`.
 * `factor`: of the damped Gram matrix of x̃.
 */
export async function makeUpForDrift(
  values: Float32Array,
  drift: Float32Array,
  factor: CholeskyFactor,
  residual: Float32Array | null,
  addProduct: AddProduct,
): Promise<Float32Array> {
  const columns = factor.size;
  const rows = values.length / columns;
  const made = residual === null ? new Float32Array(values.length) : residual.slice();
  const matrix = (array: Float32Array) => ({ values: array, stride: columns });
  await addProduct({ a: matrix(values), b: matrix(drift), c: matrix(made), rows, depth: columns, columns });
  await solveCholesky(factor, made, addProduct);
  for (let i = 0; i < made.length; i++) made[i] = values[i] + DRIFT_SHARE * made[i];
  return made;
}
