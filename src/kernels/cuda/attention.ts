// Launch descriptions of attention: tensor-core kernels for 16-bit types, one for prompts and one for decodes, and a plain
// one for everything else.
import { lacksSmallCache, type KernelQuery } from '../kernel.ts';
import {
  attributesOf,
  commonParameters,
  matrices,
  MAX_MULTIPROCESSORS,
  numWorkerBlocks,
  plain,
  shapeDefines,
  TILE_ROWS,
  WARP_THREADS,
  type AttentionAttributes,
} from './attention-parameters.ts';
import {
  pointer,
  singleKernel,
  type CudaKernelDescription,
  type CudaLaunch,
  type KernelLaunch,
} from './cuda-kernel.ts';

const MAX_HEAD_DIM = 256;
const PREFILL_WARPS = 4;
const PREFILL_STAGES = 2;
/** Tiles of a warp that must be under way to hide the memory's latency. */
const DECODE_STAGES = 3;
/** Shared memory that a kernel's own variables may take. */
const STATIC_SHARED_BYTES = 2048;

export const attention: CudaKernelDescription = {
  ...singleKernel('attention', prepare),
  lacks: lacksSmallCache,
  variants: (query) => [{ kernel: isForTensorCores(query) ? 'tensor_cores' : 'plain', maxRows: null }],
  workspaceBytes: (query) => (isForTensorCores(query) ? partBytes(attributesOf(query)) : 0),
};

function isForTensorCores(query: KernelQuery): boolean {
  const { headDim, valueHeadDim, scale } = attributesOf(query);
  const fits = [headDim, valueHeadDim].every((dim) => dim % 8 === 0 && dim <= MAX_HEAD_DIM);
  if (query.batchInvariant) return false;
  return fits && scale > 0 && query.activationDType !== 'float32' && query.activationDType === query.kvDType;
}

/** What warps leave of results that others have a part of: two each, float32 sums, largest scores and total weights. */
function partBytes(attributes: AttentionAttributes): number {
  const { numHeads, numKvHeads, valueHeadDim } = attributes;
  const rows = Math.min(TILE_ROWS, numHeads / numKvHeads);
  const floats = Math.ceil((rows * (valueHeadDim + 2)) / 4) * 4;
  return MAX_MULTIPROCESSORS * maxDecodeWarps(attributes) * 2 * floats * 4;
}

function prepare(launch: CudaLaunch): readonly KernelLaunch[] {
  if (launch.kernel === 'plain' || launch.blockSize % TILE_ROWS !== 0) return [plain(launch)];
  return [prefill(launch), decode(launch)];
}

function prefill(launch: CudaLaunch): KernelLaunch {
  const { numHeads, headDim, valueHeadDim } = attributesOf(launch);
  const dim = Math.max(headDim, valueHeadDim);
  const isForHopper =
    launch.gpu.computeCapability === 90 && [headDim, valueHeadDim].every((size) => size % 16 === 0);
  const tiles = dim > 192 ? 2 : 4;
  return {
    kind: 'kernel',
    source: isForHopper ? 'attention-prefill-hopper.cu' : 'attention-prefill.cu',
    entry: 'attention_prefill',
    defines: {
      ...shapeDefines(launch),
      TILES: tiles,
      STAGES: PREFILL_STAGES,
      ...(isForHopper ? { BLOCKS: dim > 128 ? 2 : 3 } : {}),
    },
    block: PREFILL_WARPS * WARP_THREADS,
    sharedBytes: PREFILL_STAGES * tiles * (isForHopper ? alignedTileBytes(launch) : tileBytes(launch)),
    overlaps: true,
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
  const { numHeads, numKvHeads } = attributesOf(launch);
  const { warps, stages } = decodeRings(launch);
  const numBlocks = numWorkerBlocks(launch);
  return {
    kind: 'kernel',
    source: 'attention-decode.cu',
    entry: 'attention_decode',
    defines: {
      ...shapeDefines(launch),
      GROUP: numHeads / numKvHeads,
      WARPS: warps,
      STAGES: stages,
    },
    block: warps * WARP_THREADS,
    sharedBytes: warps * stages * tileBytes(launch),
    overlaps: true,
    grid: ({ numDecodeSeqs }) => [numDecodeSeqs === 0 ? 0 : numBlocks, 1, 1],
    parameters: [
      pointer(launch.addresses.numSeqs),
      ...matrices(launch),
      ...commonParameters(launch),
      pointer(launch.workspace),
      pointer(launch.constant(new Float32Array(numBlocks * warps))),
    ],
  };
}

/** Warps of a block, and tiles of each that are under way: as many as shared memory holds. */
function decodeRings(launch: CudaLaunch): { warps: number; stages: number } {
  const room = Math.floor((launch.gpu.maxSharedMemoryPerBlock - STATIC_SHARED_BYTES) / tileBytes(launch));
  const most = maxDecodeWarps(attributesOf(launch));
  const warps = [16, 8, 4, 2].find((count) => count <= most && count * DECODE_STAGES <= room) ?? 1;
  return { warps, stages: Math.min(8, Math.floor(room / warps)) };
}

/** Warps whose registers a multiprocessor holds. */
function maxDecodeWarps({ numHeads, numKvHeads, headDim, valueHeadDim }: AttentionAttributes): number {
  return Math.max(headDim, valueHeadDim) > 64 || numHeads > 8 * numKvHeads ? 8 : 16;
}

/** Keys and values of a tile. */
function tileBytes(launch: CudaLaunch): number {
  const { headDim, valueHeadDim } = attributesOf(launch);
  return TILE_ROWS * (headDim + valueHeadDim) * 2;
}

/** The same, values rounded up to what wgmma wants. */
function alignedTileBytes(launch: CudaLaunch): number {
  const { headDim, valueHeadDim } = attributesOf(launch);
  return TILE_ROWS * headDim * 2 + Math.ceil((TILE_ROWS * valueHeadDim * 2) / 1024) * 1024;
}
