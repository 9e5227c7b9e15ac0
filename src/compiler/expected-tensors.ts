// The tensors that a plan reads: what a checkpoint for it holds, and what random weights must be made of.
import type { FloatDType } from '../tensor/dtype.ts';
import type { TensorCatalog } from '../tensor/tensor-source.ts';
import type { Plan } from './plan.ts';

/** Every tensor that the plan's weights are cut from, as if stored in `dtype`. */
export function expectedTensors(plan: Plan, dtype: FloatDType): TensorCatalog {
  const parts = plan.weights.flatMap((weight) => weight.parts);
  return new Map(parts.map((part) => [part.tensor, { dtype, shape: part.tensorShape }]));
}
