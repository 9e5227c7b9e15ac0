// Launch descriptions of rmsNorm, layerNorm and their fusions with the residual add and with quantize.
import { itemSize } from '../../tensor/dtype.ts';
import {
  calibratedScales,
  cudaType,
  float,
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  rowCount,
  rowBlocks,
  rowGrid,
  singleKernel,
  threadsFor,
  vectorWidth,
  view,
  type CudaLaunch,
  type CudaMatrix,
  type KernelLaunch,
} from './cuda-kernel.ts';

const MAX_THREADS = 512;
/** Of a thread, where so many threads are enough. */
const PIECES = 2;

interface NormOperands {
  readonly x: CudaMatrix;
  /** Of the fused ops: what is added to x, and where the sum goes. */
  readonly added: { readonly residual: CudaMatrix; readonly sum: CudaMatrix } | null;
  readonly y: CudaMatrix;
  /** Of codes in y: where a row's scale goes, or comes from. */
  readonly scales: CudaMatrix | null;
  readonly staticScales: CudaMatrix | null;
  readonly weight: CudaMatrix;
  readonly bias: CudaMatrix | null;
}

function norm(launch: CudaLaunch, entry: 'rms_norm' | 'layer_norm', operands: NormOperands): KernelLaunch {
  const { x, added, y, scales, staticScales, weight, bias } = operands;
  const { attributes } = launch;
  const groupSize = Number(attributes['groupSize'] ?? x.columns);
  const { residual, sum } = added ?? { residual: x, sum: x };
  const vec = vectorWidth(groupSize, [x, residual, sum, y, weight]);
  const numWeightGroups = weight.columns / groupSize;
  const block = threadsFor(groupSize / vec / PIECES, MAX_THREADS);
  const pieces = Math.ceil(groupSize / vec / block);
  // The weight, a row and what is added to it, and the next row.
  const numBlocks = rowBlocks(block, pieces * Math.ceil((4 * vec * itemSize(x.dtype)) / 4));
  return {
    kind: 'kernel',
    source: 'norm.cu',
    entry,
    defines: {
      X: cudaType(x.dtype),
      W: cudaType(weight.dtype),
      Y: cudaType(y.dtype),
      QUANTIZE: scales ? 1 : 0,
      VEC: vec,
      PIECES: pieces,
      ADD: added ? 1 : 0,
      THREADS: block,
      MIN_BLOCKS: numBlocks,
    },
    block,
    sharedBytes: 0,
    overlaps: true,
    grid: rowGrid(launch, numBlocks, x.columns / groupSize),
    parameters: [
      rowCount(launch),
      ...[x, residual, sum, y].flatMap(view),
      ...view(scales ?? y),
      ...calibratedScales(staticScales),
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
  const affine = { weight: matrixOf(weight), bias: optionalMatrix(bias) };
  return { x: matrixOf(x), added: null, y: matrixOf(y), scales: null, staticScales: null, ...affine };
}

function afterAdd({ inputs: [x, residual, weight, bias], outputs: [sum, y] }: CudaLaunch): NormOperands {
  const added = { residual: matrixOf(residual), sum: matrixOf(sum) };
  const affine = { weight: matrixOf(weight), bias: optionalMatrix(bias) };
  return { x: matrixOf(x), added, y: matrixOf(y), scales: null, staticScales: null, ...affine };
}

/** The operands of the op that `quantize` is fused with, which has no bias, and those of the quantize. */
function quantizing(launch: CudaLaunch, operandsOf: (launch: CudaLaunch) => NormOperands): NormOperands {
  const [scales, staticScales] = [launch.outputs.at(-1), launch.inputs.at(-1)];
  const own = { ...launch, inputs: launch.inputs.slice(0, -1), outputs: launch.outputs.slice(0, -1) };
  return { ...operandsOf(own), scales: matrixOf(scales), staticScales: optionalMatrix(staticScales) };
}

export const rmsNorm = singleKernel('rmsNorm', (launch) => [norm(launch, 'rms_norm', alone(launch))]);
export const layerNorm = singleKernel('layerNorm', (launch) => [norm(launch, 'layer_norm', alone(launch))]);
export const addRmsNorm = singleKernel('addRmsNorm', (launch) => [
  norm(launch, 'rms_norm', afterAdd(launch)),
]);
export const addLayerNorm = singleKernel('addLayerNorm', (launch) => [
  norm(launch, 'layer_norm', afterAdd(launch)),
]);
export const rmsNormQuantize = singleKernel('rmsNormQuantize', (launch) => [
  norm(launch, 'rms_norm', quantizing(launch, alone)),
]);
export const addRmsNormQuantize = singleKernel('addRmsNormQuantize', (launch) => [
  norm(launch, 'rms_norm', quantizing(launch, afterAdd)),
]);
