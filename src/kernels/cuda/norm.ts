// Launch descriptions of rmsNorm, layerNorm and their fusions with the residual add.
import {
  cudaType,
  float,
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  rowCount,
  singleKernel,
  threadsFor,
  vectorWidth,
  view,
  type CudaLaunch,
  type CudaMatrix,
  type KernelLaunch,
} from './cuda-kernel.ts';

const MAX_THREADS = 512;

interface NormOperands {
  readonly x: CudaMatrix;
  /** Of the fused ops: what is added to x, and where the sum goes. */
  readonly added: { readonly residual: CudaMatrix; readonly sum: CudaMatrix } | null;
  readonly y: CudaMatrix;
  readonly weight: CudaMatrix;
  readonly bias: CudaMatrix | null;
}

function norm(launch: CudaLaunch, entry: 'rms_norm' | 'layer_norm', operands: NormOperands): KernelLaunch {
  const { x, added, y, weight, bias } = operands;
  const { attributes } = launch;
  const groupSize = Number(attributes['groupSize'] ?? x.columns);
  const { residual, sum } = added ?? { residual: x, sum: x };
  const vec = vectorWidth(groupSize, [x, residual, sum, y, weight]);
  const numWeightGroups = weight.columns / groupSize;
  const block = threadsFor(groupSize / vec, MAX_THREADS);
  return {
    kind: 'kernel',
    source: 'norm.cu',
    entry,
    defines: {
      X: cudaType(x.dtype),
      W: cudaType(weight.dtype),
      VEC: vec,
      PIECES: Math.ceil(groupSize / vec / block),
      ADD: added ? 1 : 0,
    },
    block,
    sharedBytes: 0,
    overlaps: true,
    grid: (counts) => [counts[launch.rows], x.columns / groupSize, 1],
    parameters: [
      rowCount(launch),
      ...[x, residual, sum, y].flatMap(view),
      pointer(weight.address),
      pointer(bias?.address ?? 0),
      int(groupSize),
      int(numWeightGroups),
      float(attributes['eps']),
      ...(entry === 'rms_norm' ? [float(attributes['weightOffset'])] : []),
    ],
  };
}

function alone({ inputs: [x, weight, bias], outputs: [y] }: CudaLaunch): NormOperands {
  return {
    x: matrixOf(x),
    added: null,
    y: matrixOf(y),
    weight: matrixOf(weight),
    bias: optionalMatrix(bias),
  };
}

function afterAdd({ inputs: [x, residual, weight, bias], outputs: [sum, y] }: CudaLaunch): NormOperands {
  return {
    x: matrixOf(x),
    added: { residual: matrixOf(residual), sum: matrixOf(sum) },
    y: matrixOf(y),
    weight: matrixOf(weight),
    bias: optionalMatrix(bias),
  };
}

export const rmsNorm = singleKernel('rmsNorm', (launch) => [norm(launch, 'rms_norm', alone(launch))]);
export const layerNorm = singleKernel('layerNorm', (launch) => [norm(launch, 'layer_norm', alone(launch))]);
export const addRmsNorm = singleKernel('addRmsNorm', (launch) => [
  norm(launch, 'rms_norm', afterAdd(launch)),
]);
export const addLayerNorm = singleKernel('addLayerNorm', (launch) => [
  norm(launch, 'layer_norm', afterAdd(launch)),
]);
