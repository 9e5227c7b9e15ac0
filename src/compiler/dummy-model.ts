// A model whose weights will be random: what it holds is what a checkpoint would that had been quantized before.
import type { KernelDescription } from '../kernels/kernel.ts';
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

/** The model itself if it is not to be quantized. Random codes are made at the speed of memory, random floats are not quantized so. */
export function dummyModel(
  model: ModelToCompile,
  settings: PlanSettings,
  target: Target,
  kernels: readonly KernelDescription[],
): ModelToCompile {
  const { quantization: name, quantizationGroupSize, quantizationKeep } = settings;
  if (name === null) return model;
  const bare = { ...model, tensors: null };
  const rules = quantizationRules(name, quantizationGroupSize, quantizationKeep);
  const plan = compile(compileRequestFor(bare, settings, target, kernels));
  return { ...model, tensors: quantizedTensors(plan, publishedDType(model.config, model.tensors), rules) };
}
