// A model whose weights will be random: what it holds is what a checkpoint would that had been quantized before.
import type { KernelDescription } from '../kernels/kernel.ts';
import type { QuantizedFacts } from '../tensor/tensor-source.ts';
import { compile } from './compile.ts';
import {
  compileRequestFor,
  publishedDType,
  type ModelToCompile,
  type PlanSettings,
} from './compile-to-fit.ts';
import { quantizedTensors } from './expected-tensors.ts';
import type { Target } from './plan.ts';
import { quantizationRules } from './quantization-rules.ts';

/**
 * The model itself if it is not to be quantized. `published`: what its config says of codes, in place of a recipe of the settings'.
 * Random codes are made at the speed of memory, random floats are not quantized so.
 */
export function dummyModel(
  model: ModelToCompile,
  published: QuantizedFacts | null,
  settings: PlanSettings,
  target: Target,
  kernels: readonly KernelDescription[],
): ModelToCompile {
  const { quantization: name, quantizationGroupSize, quantizationKeep: keep } = settings;
  if (name === null && published === null) return model;
  const rules = published
    ? { name: 'published', ...published, keep }
    : quantizationRules(name!, quantizationGroupSize, keep);
  const request = compileRequestFor({ ...model, tensors: null }, settings, target, kernels);
  const plan = compile({ ...request, recipe: { ...request.recipe, quantization: rules } });
  return { ...model, tensors: quantizedTensors(plan, publishedDType(model.config, model.tensors), rules) };
}
