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
  prefillParameters,
  scaleParameters,
  shapeDefines,
  TILE_ROWS,
  WARP_THREADS,
  type AttentionAttributes,
} from './attention-parameters.ts';
import {
  cacheOf,
  matrixOf,
  pointer,
  QUERIES_PER_TILE,
  singleKernel,
  vectorWidth,
  type CudaKernelDescription,
  type CudaLaunch,
  type KernelLaunch,
} from './cuda-kernel.ts';

const MAX_HEAD_DIM = 256;
const PREFILL_WARPS = 4;
const PREFILL_STAGES = 2;
const HOPPER_WARPGROUPS = 3;
/** Of a thread: sums, scores and weights. */
const MAX_PREFILL_REGISTERS = 176;
/** A query's power of two. */
const UNIT_BYTES = 4;
/** Barriers of stages. */
const RING_BYTES = 128;
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

/** With the quantize that alone reads it, under scales known beforehand. */
export const attentionQuantize: CudaKernelDescription = { ...attention, op: 'attentionQuantize' };

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
  const { headDim, valueHeadDim } = attributesOf(launch);
  const isForHopper =
    launch.gpu.computeCapability === 90 &&
    [headDim, valueHeadDim].every((size) => size % 16 === 0) &&
    // Queries come by pieces of 16 bytes.
    vectorWidth(headDim, [matrixOf(launch.inputs[0])]) === 8;
  return {
    ...(isForHopper ? hopperPrefill(launch) : plainPrefill(launch)),
    kind: 'kernel',
    entry: 'attention_prefill',
    overlaps: true,
    parameters: prefillParameters(launch),
  };
}

type PrefillShape = Pick<KernelLaunch, 'source' | 'defines' | 'block' | 'sharedBytes' | 'grid'>;

/** A block takes 64 queries, half of a tile. */
function plainPrefill(launch: CudaLaunch): PrefillShape {
  const { numHeads, headDim, valueHeadDim } = attributesOf(launch);
  const tiles = Math.max(headDim, valueHeadDim) > 192 ? 2 : 4;
  const factorBytes = TILE_ROWS * (headDim + valueHeadDim) * FACTOR_BYTES;
  const bytes = hasCodes(launch)
    ? factorBytes + PREFILL_STAGES * tileBytes(launch)
    : PREFILL_STAGES * factorBytes;
  return {
    source: 'attention-prefill.cu',
    defines: { ...shapeDefines(launch), TILES: tiles, STAGES: PREFILL_STAGES },
    block: PREFILL_WARPS * WARP_THREADS,
    sharedBytes: tiles * bytes,
    grid: ({ numQueryTiles }) => [2 * numQueryTiles, numHeads, 1],
  };
}

/** A block on each multiprocessor. */
function hopperPrefill(launch: CudaLaunch): PrefillShape {
  const { numHeads } = attributesOf(launch);
  const { gpu } = launch;
  const tiles = [8, 4].find((count) => fitsHopper(launch, count)) ?? 2;
  return {
    source: 'attention-prefill-hopper.cu',
    defines: { ...shapeDefines(launch), TILES: tiles, STAGES: PREFILL_STAGES },
    block: HOPPER_WARPGROUPS * 4 * WARP_THREADS,
    sharedBytes: hopperSharedBytes(launch, tiles),
    grid: ({ numQueryTiles }) => [Math.min(numQueryTiles * numHeads, gpu.numMultiprocessors), 1, 1],
  };
}

/** Whether sums, scores and weights fit the registers, and groups of so many tiles the shared memory. */
function fitsHopper(launch: CudaLaunch, tiles: number): boolean {
  const { valueHeadDim } = attributesOf(launch);
  const registers = valueHeadDim / 2 + 12 * tiles;
  return (
    registers <= MAX_PREFILL_REGISTERS &&
    hopperSharedBytes(launch, tiles) <= launch.gpu.maxSharedMemoryPerBlock
  );
}

/** The struct Memory of attention-prefill-hopper.cu, aligned to 1024 bytes. */
function hopperSharedBytes(launch: CudaLaunch, tiles: number): number {
  const { headDim, valueHeadDim } = attributesOf(launch);
  // As wgmma wants them.
  const valueBytes = Math.ceil((TILE_ROWS * valueHeadDim * FACTOR_BYTES) / 1024) * 1024;
  const factorBytes = TILE_ROWS * headDim * FACTOR_BYTES + valueBytes;
  const codeBytes = hasCodes(launch) ? tileBytes(launch) : 0;
  const queryBytes = QUERIES_PER_TILE * (headDim * FACTOR_BYTES + UNIT_BYTES);
  return 1024 + queryBytes + PREFILL_STAGES * tiles * (factorBytes + codeBytes) + RING_BYTES;
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
      ...scaleParameters(launch),
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

/** Whether the cache holds codes, which kernels make numbers of 16 bits of. */
function hasCodes(launch: CudaLaunch): boolean {
  return !isFloatDType(cacheOf(launch.inputs[1]).dtype);
}
