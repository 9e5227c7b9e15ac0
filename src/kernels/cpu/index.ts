// Launch descriptions of every kernel of the CPU device.
import { attention } from './attention.ts';
import type { CpuKernelDescription } from './cpu-kernel.ts';
import { activation, add, clamp, gatedActivation, multiply, scale, softcap } from './elementwise.ts';
import { embedding } from './embedding.ts';
import { gatherRows } from './gather-rows.ts';
import { addLayerNorm, layerNorm } from './layer-norm.ts';
import { linear } from './linear.ts';
import { addRmsNorm, rmsNorm } from './rms-norm.ts';
import { kvWrite, rope, ropeKvWrite } from './rope.ts';

export const CPU_KERNELS: readonly CpuKernelDescription[] = [
  embedding,
  linear,
  rmsNorm,
  layerNorm,
  add,
  multiply,
  scale,
  clamp,
  activation,
  softcap,
  rope,
  kvWrite,
  attention,
  gatherRows,
  addRmsNorm,
  addLayerNorm,
  gatedActivation,
  ropeKvWrite,
];
