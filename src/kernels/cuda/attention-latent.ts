// Launch descriptions of latent attention: tensor cores on Hopper, where a group of keys for all heads fits shared memory.
import { isFloatDType, kvHeadBytes } from '../../tensor/dtype.ts';
import type { KernelQuery } from '../kernel.ts';
import {
  areFactors,
  attributesOf,
  matrices,
  MAX_MULTIPROCESSORS,
  numWorkerBlocks,
  plain,
  sequenceParameters,
  tableParameters,
  shapeDefines,
  TILE_ROWS,
  WARP_THREADS,
  type AttentionAttributes,
} from './attention-parameters.ts';
import {
  cacheOf,
  float,
  matrixOf,
  pointer,
  singleKernel,
  view,
  type CudaKernelDescription,
  type CudaLaunch,
  type KernelLaunch,
  type Parameter,
} from './cuda-kernel.ts';

/** (token, head) pairs of a block, and tokens in a group of the cache. */
const LATENT_ROWS = 64;
/** Columns of queries, and of both stages of keys, that fit shared memory. */
const MAX_LATENT_DIM = 576;
const STAGES = 2;
const THREADS = 2 * 4 * WARP_THREADS;

export const latentAttention: CudaKernelDescription = {
  ...singleKernel('latentAttention', prepare),
  variants: (query) => [{ kernel: isForTensorCores(query) ? 'tensor_cores' : 'plain', maxRows: null }],
  workspaceBytes: (query) => (isForTensorCores(query) ? partBytes(attributesOf(query)) : 0),
};

function isForTensorCores(query: KernelQuery): boolean {
  const { headDim, valueHeadDim, scale } = attributesOf(query);
  const fits = headDim % 64 === 0 && valueHeadDim % 128 === 0 && headDim + valueHeadDim <= MAX_LATENT_DIM;
  return fits && scale > 0 && !query.batchInvariant && areFactors(query);
}

/** What blocks leave of results that others have a part of: two each, float32 sums, largest scores and total weights. */
function partBytes({ numHeads, valueHeadDim }: AttentionAttributes): number {
  const rows = Math.min(LATENT_ROWS, numHeads);
  return MAX_MULTIPROCESSORS * 2 * Math.ceil((rows * (valueHeadDim + 2)) / 4) * 16;
}

function prepare(launch: CudaLaunch): readonly KernelLaunch[] {
  const isForHopper = launch.gpu.computeCapability === 90 && launch.blockSize % TILE_ROWS === 0;
  if (launch.kernel === 'plain' || !isForHopper) return [plain(launch)];
  const { numHeads } = attributesOf(launch);
  const numBlocks = numWorkerBlocks(launch);
  return [
    latent(launch, 'latent_prefill', ({ numQueryTiles }) => [numQueryTiles, 2 * numHeads, 1], [
      pointer(launch.addresses.numQueryTiles),
      pointer(launch.addresses.queryTiles),
      ...matrices(launch),
      ...tableParameters(launch),
    ]),
    latent(
      launch,
      'latent_decode',
      ({ numDecodeSeqs }) => [numDecodeSeqs === 0 ? 0 : numBlocks, 1, 1],
      [pointer(launch.addresses.numSeqs), ...matrices(launch), ...sequenceParameters(launch)],
      [pointer(launch.workspace), pointer(launch.constant(new Float32Array(numBlocks)))],
    ),
  ];
}

function latent(
  launch: CudaLaunch,
  entry: string,
  grid: KernelLaunch['grid'],
  first: readonly Parameter[],
  last: readonly Parameter[] = [],
): KernelLaunch {
  const { numHeads, scale } = attributesOf(launch);
  return {
    kind: 'kernel',
    source: 'attention-latent.cu',
    entry,
    defines: { ...shapeDefines(launch), HEADS: numHeads, STAGES },
    block: THREADS,
    sharedBytes: sharedBytes(launch),
    overlaps: true,
    grid,
    parameters: [...first, float(scale), ...view(matrixOf(launch.inputs[5])), ...last],
  };
}

/** Queries and stages of keys; of codes there are the numbers of one stage besides. */
function sharedBytes(launch: CudaLaunch): number {
  const { headDim, valueHeadDim } = attributesOf(launch);
  const { dtype } = cacheOf(launch.inputs[1]);
  const groupBytes = LATENT_ROWS * (headDim + valueHeadDim) * 2;
  if (isFloatDType(dtype)) return (1 + STAGES) * groupBytes;
  return (
    2 * groupBytes + STAGES * LATENT_ROWS * (kvHeadBytes(headDim, dtype) + kvHeadBytes(valueHeadDim, dtype))
  );
}
