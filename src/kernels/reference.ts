// The reference device's launch descriptions: every op in one variant, weights as written.
import type { KernelDescription } from './kernel.ts';

const OP_NAMES = [
  'embedding',
  'linear',
  'rmsNorm',
  'layerNorm',
  'add',
  'multiply',
  'scale',
  'clamp',
  'activation',
  'softcap',
  'rope',
  'kvWrite',
  'attention',
  'latentAttention',
  'routeExperts',
  'groupedLinear',
  'combineExperts',
  'gatherRows',
  'addRmsNorm',
  'addLayerNorm',
  'gatedActivation',
  'ropeKvWrite',
  'rmsNormQuantize',
  'addRmsNormQuantize',
  'gatedActivationQuantize',
  'attentionQuantize',
  'permuteColumns',
  'quantize',
  'weightOnlyLinear',
  'quantizedLinear',
  'weightOnlyGroupedLinear',
  'quantizedGroupedLinear',
];

export const REFERENCE_KERNELS: readonly KernelDescription[] = OP_NAMES.map((op) => ({
  op,
  weightLayout: () => 'rowMajor',
  variants: () => [{ kernel: 'reference', maxRows: null }],
  workspaceBytes: () => 0,
}));
