// What the launch descriptions of attention share: attributes, parameters in the kernels' order, and the plain kernel for types
// and shapes that tensor cores do not take.
import { isFloatDType } from '../../tensor/dtype.ts';
import type { KernelQuery } from '../kernel.ts';
import {
  cacheOf,
  calibratedScales,
  cudaType,
  float,
  inputOf,
  int,
  matrixOf,
  optionalMatrix,
  optionalView,
  pointer,
  view,
  type CudaLaunch,
  type CudaMatrix,
  type KernelLaunch,
  type Parameter,
} from './cuda-kernel.ts';

export interface AttentionAttributes {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly valueHeadDim: number;
  readonly scale: number;
  // Latent attention has none of these.
  readonly window?: number | null;
  readonly softcap?: number | null;
  readonly alibiSlopes?: readonly number[] | null;
}

/** Rows of queries, and tokens in a tile of the cache. */
export const TILE_ROWS = 16;
export const WARP_THREADS = 32;
/** Of the largest GPUs. */
export const MAX_MULTIPROCESSORS = 192;

export function attributesOf({ attributes }: { readonly attributes: object }): AttentionAttributes {
  return attributes as AttentionAttributes;
}

export function matrices(launch: CudaLaunch): readonly Parameter[] {
  const cache = cacheOf(launch.inputs[1]);
  const [q, y] = [matrixOf(launch.inputs[0]), matrixOf(launch.outputs[0])];
  return [...view(q), ...view(y), pointer(cache.keys), pointer(cache.values)];
}

/** What follows those: scales, where results are codes. */
export function scaleParameters({ attributes, inputs, outputs }: CudaLaunch): readonly Parameter[] {
  const isQuantizing = 'quantize' in attributes;
  const [calibrated, ofRows] = isQuantizing ? [inputs[5], outputs[1]].map(matrixOf) : [null, null];
  return [...calibratedScales(calibrated), ...optionalView(ofRows)];
}

/** Block tables and all that follows them in the kernels' declarations. */
export function commonParameters(launch: CudaLaunch): readonly Parameter[] {
  return [...sequenceParameters(launch), ...ruleParameters(launch)];
}

/** The same of prompts, whose query tiles tell where sequences lie. */
export function prefillParameters(launch: CudaLaunch): readonly Parameter[] {
  const { numQueryTiles, queryTiles } = launch.addresses;
  return [
    pointer(numQueryTiles),
    pointer(queryTiles),
    ...matrices(launch),
    ...scaleParameters(launch),
    ...tableParameters(launch),
    ...ruleParameters(launch),
  ];
}

function ruleParameters(launch: CudaLaunch): readonly Parameter[] {
  const { numHeads, numKvHeads, scale, window, softcap, alibiSlopes } = attributesOf(launch);
  return [
    pointer(alibiSlopes ? launch.constant(Float32Array.from(alibiSlopes)) : 0),
    pointer(sinksOf(launch)?.address ?? 0),
    int(numHeads),
    int(numKvHeads),
    float(scale),
    float(softcap ?? 0),
    int(window ?? 0),
  ];
}

export function sequenceParameters(launch: CudaLaunch): readonly Parameter[] {
  const [, , , cuSeqlensQ, contextLens] = launch.inputs;
  return [
    ...tableParameters(launch),
    pointer(inputOf(cuSeqlensQ).address),
    pointer(inputOf(contextLens).address),
  ];
}

/** Block tables, and how wide they are. */
export function tableParameters({ inputs }: CudaLaunch): readonly Parameter[] {
  const { address, strideAddress } = inputOf(inputs[2]);
  return [pointer(address), pointer(strideAddress)];
}

/** Latent attention has an operand of its own in their place; the scales of codes stand before them. */
function sinksOf({ op, attributes, inputs }: CudaLaunch): CudaMatrix | null {
  if (op === 'latentAttention') return null;
  return optionalMatrix(inputs['quantize' in attributes ? 6 : 5]);
}

export function shapeDefines(launch: CudaLaunch): Record<string, string | number> {
  const { headDim, valueHeadDim, window, softcap, alibiSlopes } = attributesOf(launch);
  const { dtype } = cacheOf(launch.inputs[1]);
  const sinks = sinksOf(launch);
  const sinkType = sinks ? cudaType(sinks.dtype) : 'float';
  return {
    X: cudaType(matrixOf(launch.inputs[0]).dtype),
    Y: cudaType(matrixOf(launch.outputs[0]).dtype),
    C: cudaType(dtype),
    FACTOR: isFloatDType(dtype) ? cudaType(dtype) : 'fp16',
    W: sinkType,
    HEAD_DIM: headDim,
    VALUE_HEAD_DIM: valueHeadDim,
    BLOCK_SIZE: launch.blockSize,
    SOFTCAP: softcap ? 1 : 0,
    ALIBI: alibiSlopes ? 1 : 0,
    WINDOW: window ? 1 : 0,
  };
}

/** Whether tensor cores take the activations' type with the cache's: the same of 16 bits, or codes. */
export function areFactors({ activationDType, kvDType }: KernelQuery): boolean {
  return activationDType !== 'float32' && (activationDType === kvDType || !isFloatDType(kvDType));
}

/** Blocks of a decode: one on each multiprocessor. */
export function numWorkerBlocks({ gpu }: CudaLaunch): number {
  return Math.min(gpu.numMultiprocessors, MAX_MULTIPROCESSORS);
}

export function plain(launch: CudaLaunch): KernelLaunch {
  const { numHeads } = attributesOf(launch);
  return {
    kind: 'kernel',
    source: 'attention.cu',
    entry: 'attention',
    defines: {
      ...shapeDefines(launch),
      LATENT: launch.op === 'latentAttention' ? 1 : 0,
    },
    block: 4 * WARP_THREADS,
    sharedBytes: 0,
    grid: ({ numTokens }) => [numTokens, numHeads, 1],
    parameters: [
      pointer(launch.addresses.numTokens),
      pointer(launch.addresses.numSeqs),
      ...matrices(launch),
      ...scaleParameters(launch),
      ...commonParameters(launch),
      ...view(matrixOf(launch.inputs[launch.op === 'latentAttention' ? 5 : 0])),
    ],
  };
}
