// Launch descriptions of every kernel of the CPU device.
import { attention, latentAttention } from './attention.ts';
import type { CpuKernelDescription } from './cpu-kernel.ts';
import { activation, add, clamp, gatedActivation, multiply, scale, softcap } from './elementwise.ts';
import { embedding } from './embedding.ts';
import { combineExperts, routeExperts } from './experts.ts';
import { gatherRows } from './gather-rows.ts';
import { groupedLinear } from './grouped-linear.ts';
import { addLayerNorm, layerNorm } from './layer-norm.ts';
import { linear } from './linear.ts';
import { permuteColumns } from './permute-columns.ts';
import { quantize } from './quantize.ts';
import {
  quantizedGroupedLinear,
  quantizedLinear,
  weightOnlyGroupedLinear,
  weightOnlyLinear,
} from './quantized-linear.ts';
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
  latentAttention,
  routeExperts,
  groupedLinear,
  combineExperts,
  gatherRows,
  addRmsNorm,
  addLayerNorm,
  gatedActivation,
  ropeKvWrite,
  permuteColumns,
  quantize,
  weightOnlyLinear,
  quantizedLinear,
  weightOnlyGroupedLinear,
  quantizedGroupedLinear,
];
