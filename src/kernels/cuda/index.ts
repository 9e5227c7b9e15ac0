// Launch descriptions of every kernel of the CUDA device.
import { attention, latentAttention } from './attention.ts';
import type { CudaKernelDescription } from './cuda-kernel.ts';
import { activation, add, clamp, gatedActivation, multiply, scale, softcap } from './elementwise.ts';
import { embedding, gatherRows } from './embedding.ts';
import { combineExperts, groupedLinear, routeExperts } from './experts.ts';
import { linear } from './linear.ts';
import { addLayerNorm, addRmsNorm, layerNorm, rmsNorm } from './norm.ts';
import { kvWrite, rope, ropeKvWrite } from './rope.ts';

export const CUDA_KERNELS: readonly CudaKernelDescription[] = [
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
];
