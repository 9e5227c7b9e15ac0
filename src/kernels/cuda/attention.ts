// Launch descriptions of attention: tensor-core kernels for 16-bit types, one for prompts and one for decodes, and a plain
// one for everything else.
import { lacksSmallCache, type KernelQuery } from '../kernel.ts';
import {
  cacheOf,
  cudaType,
  float,
  inputOf,
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  singleKernel,
  view,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type KernelLaunch,
  type Parameter,
  type StepCounts,
} from './cuda-kernel.ts';

interface AttentionAttributes {
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

/** Blocks that fill any of the chips a few times over: contexts are split until there are so many. */
const WANTED_BLOCKS = 512;
const MAX_HEAD_DIM = 256;
const ROWS_PER_TILE = 16;
const WARP_THREADS = 32;
const PREFILL_WARPS = 4;

export const attention: CudaKernelDescription = {
  ...singleKernel('attention', prepare),
  lacks: lacksSmallCache,
  variants: (query) => [{ kernel: isForTensorCores(query) ? 'tensor_cores' : 'plain', maxRows: null }],
  workspaceBytes: (query) => (isForTensorCores(query) ? partialBytes(attributesOf(query)) : 0),
};

export const latentAttention: CudaKernelDescription = {
  ...singleKernel('latentAttention', (launch) => [plain(launch)]),
  lacks: lacksSmallCache,
};

function attributesOf({ attributes }: { readonly attributes: object }): AttentionAttributes {
  return attributes as AttentionAttributes;
}

function isForTensorCores(query: KernelQuery): boolean {
  const { headDim, valueHeadDim } = attributesOf(query);
  const dims = [headDim, valueHeadDim];
  const fits = dims.every((dim) => dim % 8 === 0 && dim <= MAX_HEAD_DIM);
  if (query.batchInvariant) return false;
  return fits && query.activationDType !== 'float32' && query.activationDType === query.kvDType;
}

/** Results of splits: for each head a weighted sum, its largest score and its total weight, in float32. */
function partialBytes({ numHeads, numKvHeads, valueHeadDim }: AttentionAttributes): number {
  return WANTED_BLOCKS * (numHeads / numKvHeads) * (valueHeadDim + 2) * 4;
}

function prepare(launch: CudaLaunch): readonly KernelLaunch[] {
  if (launch.kernel === 'plain') return [plain(launch)];
  return [prefill(launch), decode(launch), combine(launch)];
}

/** Block tables and all that follows them in the kernels' declarations. */
function commonParameters(launch: CudaLaunch): readonly Parameter[] {
  const { numHeads, numKvHeads, scale, window, softcap, alibiSlopes } = attributesOf(launch);
  const [, , blockTables, cuSeqlensQ, contextLens] = launch.inputs;
  const tables = inputOf(blockTables);
  return [
    pointer(tables.address),
    pointer(tables.strideAddress),
    pointer(inputOf(cuSeqlensQ).address),
    pointer(inputOf(contextLens).address),
    pointer(alibiSlopes ? launch.constant(Float32Array.from(alibiSlopes)) : 0),
    pointer(sinksOf(launch)?.address ?? 0),
    int(numHeads),
    int(numKvHeads),
    float(scale),
    float(softcap ?? 0),
    int(window ?? 0),
  ];
}

/** Latent attention has an operand of its own in their place. */
function sinksOf({ op, inputs }: CudaLaunch): CudaMatrix | null {
  return op === 'attention' ? optionalMatrix(inputs[5]) : null;
}

function matrices(launch: CudaLaunch): readonly Parameter[] {
  const cache = cacheOf(launch.inputs[1]);
  const [q, y] = [matrixOf(launch.inputs[0]), matrixOf(launch.outputs[0])];
  return [...view(q), ...view(y), pointer(cache.keys), pointer(cache.values)];
}

function shapeDefines(launch: CudaLaunch): Record<string, string | number> {
  const { headDim, valueHeadDim } = attributesOf(launch);
  const type = cudaType(cacheOf(launch.inputs[1]).dtype);
  const sinks = sinksOf(launch);
  const sinkType = sinks ? cudaType(sinks.dtype) : 'float';
  return {
    C: type,
    W: sinkType,
    HEAD_DIM: headDim,
    VALUE_HEAD_DIM: valueHeadDim,
    BLOCK_SIZE: launch.blockSize,
  };
}

function plain(launch: CudaLaunch): KernelLaunch {
  const { numHeads } = attributesOf(launch);
  return {
    kind: 'kernel',
    source: 'attention.cu',
    entry: 'attention',
    defines: {
      ...shapeDefines(launch),
      X: cudaType(matrixOf(launch.inputs[0]).dtype),
      LATENT: launch.op === 'latentAttention' ? 1 : 0,
    },
    block: 4 * WARP_THREADS,
    sharedBytes: 0,
    grid: ({ numTokens }) => [numTokens, numHeads, 1],
    parameters: [
      pointer(launch.addresses.numTokens),
      pointer(launch.addresses.numSeqs),
      ...matrices(launch),
      ...commonParameters(launch),
      ...view(matrixOf(launch.inputs[launch.op === 'latentAttention' ? 5 : 0])),
    ],
  };
}

function prefill(launch: CudaLaunch): KernelLaunch {
  const { numHeads, headDim, valueHeadDim } = attributesOf(launch);
  const keys = Math.max(headDim, valueHeadDim) > 128 ? 32 : 64;
  const stages = 2;
  return {
    kind: 'kernel',
    source: 'attention-prefill.cu',
    entry: 'attention_prefill',
    defines: { ...shapeDefines(launch), KEYS: keys, STAGES: stages },
    block: PREFILL_WARPS * WARP_THREADS,
    sharedBytes: stages * rowBytes(launch) * keys,
    grid: ({ numQueryTiles }) => [numQueryTiles, numHeads, 1],
    parameters: [
      pointer(launch.addresses.numQueryTiles),
      pointer(launch.addresses.queryTiles),
      ...matrices(launch),
      ...commonParameters(launch),
    ],
  };
}

function decode(launch: CudaLaunch): KernelLaunch {
  const { numKvHeads } = attributesOf(launch);
  const { warps, stages } = decodeRing(launch);
  return {
    kind: 'kernel',
    source: 'attention-decode.cu',
    entry: 'attention_decode',
    defines: decodeDefines(launch),
    block: warps * WARP_THREADS,
    sharedBytes: ringBytes(launch, warps, stages),
    grid: (counts) => [
      counts.numDecodeSeqs === 0 ? 0 : numSplits(launch, counts),
      numKvHeads * Math.ceil(groupSize(launch) / ROWS_PER_TILE),
      counts.numSeqs,
    ],
    parameters: [
      pointer(launch.addresses.numSeqs),
      ...matrices(launch),
      ...commonParameters(launch),
      pointer(launch.workspace),
    ],
  };
}

function combine(launch: CudaLaunch): KernelLaunch {
  const { numHeads, valueHeadDim } = attributesOf(launch);
  return {
    kind: 'kernel',
    source: 'attention-decode.cu',
    entry: 'attention_combine',
    defines: decodeDefines(launch),
    block: Math.ceil(valueHeadDim / WARP_THREADS) * WARP_THREADS,
    sharedBytes: 0,
    grid: (counts) => [
      counts.numDecodeSeqs === 0 || numSplits(launch, counts) === 1 ? 0 : counts.numSeqs,
      numHeads,
      1,
    ],
    parameters: [
      pointer(launch.addresses.numSeqs),
      pointer(inputOf(launch.inputs[3]).address),
      pointer(launch.workspace),
      pointer(sinksOf(launch)?.address ?? 0),
      ...view(matrixOf(launch.outputs[0])),
      int(numHeads),
      { count: (counts) => numSplits(launch, counts) },
    ],
  };
}

function numSplits(launch: CudaLaunch, { numSeqs }: StepCounts): number {
  return Math.max(1, Math.floor(WANTED_BLOCKS / (numSeqs * attributesOf(launch).numKvHeads)));
}

function groupSize(launch: CudaLaunch): number {
  const { numHeads, numKvHeads } = attributesOf(launch);
  return numHeads / numKvHeads;
}

function decodeDefines(launch: CudaLaunch): Record<string, string | number> {
  const { warps, stages } = decodeRing(launch);
  return { ...shapeDefines(launch), WARPS: warps, STAGES: stages, GROUP: groupSize(launch) };
}

/** Warps, and tiles under way of each: as many as shared memory holds. */
function decodeRing(launch: CudaLaunch): { warps: number; stages: number } {
  const { headDim, valueHeadDim } = attributesOf(launch);
  const warps = Math.max(headDim, valueHeadDim) > 128 ? 2 : 4;
  const fits = ringBytes(launch, warps, 3) <= launch.gpu.maxSharedMemoryPerBlock;
  return { warps, stages: fits ? 3 : 2 };
}

function ringBytes(launch: CudaLaunch, warps: number, stages: number): number {
  return warps * stages * ROWS_PER_TILE * rowBytes(launch);
}

/** A key and a value in shared memory: padded to 16 elements, and 8 more against bank conflicts. */
function rowBytes(launch: CudaLaunch): number {
  const { headDim, valueHeadDim } = attributesOf(launch);
  return (Math.ceil(headDim / 16) * 16 + 8 + Math.ceil(valueHeadDim / 16) * 16 + 8) * 2;
}
