// The tensors that a plan reads: what a checkpoint for it holds, and what random weights must be made of.
import type { FloatDType } from '../tensor/dtype.ts';
import {
  inputScaleTensorName,
  scaleTensorName,
  type TensorCatalog,
  type TensorFacts,
} from '../tensor/tensor-source.ts';
import { scaleColumns } from '../tensor/weight-format.ts';
import type { Plan } from './plan.ts';
import type { QuantizationRules } from './request.ts';

/** Every tensor that the plan's weights are cut from, floats as if stored in `dtype`. */
export function expectedTensors(plan: Plan, dtype: FloatDType): TensorCatalog {
  const tensors = new Map<string, TensorFacts>();
  for (const { parts, quantization } of plan.weights) {
    const stored = quantization?.origin === 'checkpoint' ? quantization : null;
    for (const { tensor, tensorShape: shape } of parts) {
      if (stored === null) tensors.set(tensor, { dtype, shape });
      else if (stored.holds !== 'codes') tensors.set(tensor, { dtype: 'float32', shape });
      else {
        const quantized = { weights: stored.format, activations: null };
        tensors.set(tensor, { dtype: stored.format.dtype, shape, quantized });
      }
    }
  }
  return tensors;
}

/**
 * What a checkpoint of the same model would hold that had been quantized by `rules` before: codes and scales in place of
 * every tensor that loading the plan would quantize.
 */
export function quantizedTensors(
  plan: Plan,
  dtype: FloatDType,
  { weights, activations }: QuantizationRules,
): TensorCatalog {
  const tensors = new Map(expectedTensors(plan, dtype));
  for (const { parts, quantization } of plan.weights) {
    if (quantization?.origin !== 'quantize' || quantization.holds !== 'codes') continue;
    for (const { tensor, tensorShape, transpose } of parts) {
      const turned = transpose ? tensorShape.slice(-2).toReversed() : tensorShape.slice(-2);
      const shape = [...tensorShape.slice(0, -2), ...turned];
      const scalesShape = [...shape.slice(0, -1), scaleColumns(weights, shape.at(-1)!)];
      tensors.set(tensor, { dtype: weights.dtype, shape, quantized: { weights, activations } });
      tensors.set(scaleTensorName(tensor), { dtype: 'float32', shape: scalesShape });
      if (activations?.isStatic) tensors.set(inputScaleTensorName(tensor), { dtype: 'float32', shape: [1] });
    }
  }
  return tensors;
}
