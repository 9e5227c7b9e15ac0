// Launch descriptions of attention: tensor-core kernels for 16-bit types, one for prompts and one for decodes, and a plain
// one for everything else.
import { isFloatDType, itemSize, kvHeadBytes } from '../../tensor/dtype.ts';
import type { KernelQuery } from '../kernel.ts';
import {
  areFactors,
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
  cacheOf,
  pointer,
  QUERIES_PER_TILE,
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
/** Of a number that tensor cores multiply here. */
const FACTOR_BYTES = 2;

export const attention: CudaKernelDescription = {
  ...singleKernel('attention', prepare),
  variants: (query) => [{ kernel: isForTensorCores(query) ? 'tensor_cores' : 'plain', maxRows: null }],
  workspaceBytes: (query) => (isForTensorCores(query) ? partBytes(attributesOf(query)) : 0),
};

function isForTensorCores(query: KernelQuery): boolean {
  const { headDim, valueHeadDim, scale } = attributesOf(query);
  // Rows of a tile are pieces of 16 bytes.
  const step = 16 / itemSize(query.kvDType);
  const fits = [headDim, valueHeadDim].every((dim) => dim % step === 0 && dim <= MAX_HEAD_DIM);
  return fits && scale > 0 && !query.batchInvariant && areFactors(query);
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
    sharedBytes: tiles * prefillTileBytes(launch, isForHopper) + storedQueryBytes(launch, isForHopper),
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

/** Keys and values of a tile of the cache. */
function tileBytes(launch: CudaLaunch): number {
  const { headDim, valueHeadDim } = attributesOf(launch);
  const { dtype } = cacheOf(launch.inputs[1]);
  return TILE_ROWS * kvHeadBytes(headDim, dtype) + TILE_ROWS * kvHeadBytes(valueHeadDim, dtype);
}

/** Queries that the kernel for Hopper keeps in shared memory. */
function storedQueryBytes(launch: CudaLaunch, isForHopper: boolean): number {
  const { headDim } = attributesOf(launch);
  return isForHopper && hasCodes(launch) && headDim <= 64 ? QUERIES_PER_TILE * headDim * FACTOR_BYTES : 0;
}

/** Whether the cache holds codes, which kernels make numbers of 16 bits of. */
function hasCodes(launch: CudaLaunch): boolean {
  return !isFloatDType(cacheOf(launch.inputs[1]).dtype);
}

/** Shared memory of a prompt's tile: its stages, and of codes the numbers that one of them becomes. */
function prefillTileBytes(launch: CudaLaunch, isForHopper: boolean): number {
  const { headDim, valueHeadDim } = attributesOf(launch);
  const valueBytes = TILE_ROWS * valueHeadDim * FACTOR_BYTES;
  // As wgmma wants them.
  const alignedBytes = isForHopper ? Math.ceil(valueBytes / 1024) * 1024 : valueBytes;
  const factorBytes = TILE_ROWS * headDim * FACTOR_BYTES + alignedBytes;
  return hasCodes(launch) ? factorBytes + PREFILL_STAGES * tileBytes(launch) : PREFILL_STAGES * factorBytes;
}
