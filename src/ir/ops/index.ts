// Every op by name.
import type { OpDefinition } from '../op.ts';
import { attention } from './attention.ts';
import { activation, add, clamp, multiply, scale, softcap } from './elementwise.ts';
import { combineExperts } from './combine-experts.ts';
import { embedding } from './embedding.ts';
import { gatedActivation } from './gated-activation.ts';
import { GATED_PRODUCTS } from './gated-products.ts';
import { gatherRows } from './gather-rows.ts';
import { groupedLinear } from './grouped-linear.ts';
import { kvWrite, ropeKvWrite } from './kv-write.ts';
import { latentAttention } from './latent-attention.ts';
import { addLayerNorm, layerNorm } from './layer-norm.ts';
import { linear } from './linear.ts';
import { addRmsNorm, rmsNorm } from './rms-norm.ts';
import { permuteColumns } from './permute-columns.ts';
import { FED_PRODUCTS } from './product-fusions.ts';
import {
  attentionQuantize,
  addRmsNormQuantize,
  gatedActivationQuantize,
  rmsNormQuantize,
} from './quantize-fusions.ts';
import { quantize } from './quantize.ts';
import { quantizedGroupedLinear, weightOnlyGroupedLinear } from './quantized-grouped-linear.ts';
import { quantizedLinear, weightOnlyLinear } from './quantized-linear.ts';
import { rope } from './rope.ts';
import { routeExperts } from './route-experts.ts';
import { slice } from './slice.ts';

/** What models state. */
const PRIMITIVE_OPS = [
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
  slice,
  rope,
  kvWrite,
  attention,
  latentAttention,
  routeExperts,
  groupedLinear,
  combineExperts,
  gatherRows,
];

/** What passes make of them. */
const FUSED_OPS = [addRmsNorm, addLayerNorm, gatedActivation, ...GATED_PRODUCTS, ropeKvWrite];

/** What a recipe of smaller numbers makes of them. */
const QUANTIZED_OPS = [
  permuteColumns,
  quantize,
  weightOnlyLinear,
  quantizedLinear,
  weightOnlyGroupedLinear,
  quantizedGroupedLinear,
  rmsNormQuantize,
  addRmsNormQuantize,
  gatedActivationQuantize,
  attentionQuantize,
];

export const OPS: ReadonlyMap<string, OpDefinition> = new Map(
  [...PRIMITIVE_OPS, ...FUSED_OPS, ...QUANTIZED_OPS, ...FED_PRODUCTS.map(({ op }) => op)].map((op) => [
    op.name,
    op,
  ]),
);
