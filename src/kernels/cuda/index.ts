// Launch descriptions of every kernel of the CUDA device.
import { latentAttention } from './attention-latent.ts';
import { attention, attentionQuantize } from './attention.ts';
import type { CudaKernelDescription } from './cuda-kernel.ts';
import { activation, add, clamp, gatedActivation, multiply, scale, softcap } from './elementwise.ts';
import { embedding, gatherRows } from './embedding.ts';
import { combineExperts, routeExperts } from './experts.ts';
import { fedProducts } from './fed-product.ts';
import {
  gatedLinear,
  gatedQuantizedLinear,
  gatedQuantizedLinearQuantize,
  gatedWeightOnlyLinear,
} from './gated-product.ts';
import {
  gatedGroupedLinear,
  gatedQuantizedGroupedLinear,
  gatedWeightOnlyGroupedLinear,
  groupedLinear,
  quantizedGroupedLinear,
  weightOnlyGroupedLinear,
} from './grouped-linear.ts';
import { linear } from './linear.ts';
import { addLayerNorm, addRmsNorm, addRmsNormQuantize, layerNorm, rmsNorm, rmsNormQuantize } from './norm.ts';
import { permuteColumns } from './permute-columns.ts';
import { gatedActivationQuantize, quantize } from './quantize.ts';
import { quantizedLinear, weightOnlyLinear } from './quantized-linear.ts';
import { kvWrite, rope, ropeKvWrite } from './rope.ts';

const PARTS: readonly CudaKernelDescription[] = [
  embedding,
  linear,
  permuteColumns,
  quantize,
  weightOnlyLinear,
  quantizedLinear,
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
  attentionQuantize,
  latentAttention,
  routeExperts,
  groupedLinear,
  weightOnlyGroupedLinear,
  quantizedGroupedLinear,
  combineExperts,
  gatherRows,
  addRmsNorm,
  addLayerNorm,
  gatedActivation,
  ropeKvWrite,
  rmsNormQuantize,
  addRmsNormQuantize,
  gatedActivationQuantize,
  gatedLinear,
  gatedWeightOnlyLinear,
  gatedQuantizedLinear,
  gatedQuantizedLinearQuantize,
  gatedGroupedLinear,
  gatedWeightOnlyGroupedLinear,
  gatedQuantizedGroupedLinear,
];

export const CUDA_KERNELS: readonly CudaKernelDescription[] = [...PARTS, ...fedProducts(PARTS)];
