// Launch description of grouped-stream.cu: grouped products whose weights are streamed into tensor cores.
import { itemSize } from '../../tensor/dtype.ts';
import type { KernelVariant } from '../kernel.ts';
import {
  COPY_ENGINE_CAPABILITY,
  cudaType,
  int,
  pointer,
  rowCount,
  tensorMap,
  view,
  type CudaLaunch,
  type KernelLaunch,
  type PreparedLaunch,
} from './cuda-kernel.ts';
import {
  columnsPerSlot,
  groupRows,
  idsView,
  maxTiles,
  rowGroups,
  type GroupedOperands,
} from './group-rows.ts';
import { STAGE_BARRIER_BYTES } from './linear.ts';

/** How a block works: what linear-stream.cuh calls by these names in capitals. */
interface Shape {
  readonly rows: number;
  readonly rowTiles: number;
  readonly rowGroups: number;
  readonly depthGroups: number;
  readonly depth: number;
  /** Of weights of codes. */
  readonly codeDepth: number;
  /** At most. */
  readonly stages: number;
}

/** By the most rows of a tile. */
const SHAPES: Readonly<Record<string, Shape>> = {
  stream8: { rows: 8, rowTiles: 1, rowGroups: 2, depthGroups: 4, depth: 256, codeDepth: 512, stages: 4 },
  stream16: { rows: 16, rowTiles: 1, rowGroups: 2, depthGroups: 4, depth: 256, codeDepth: 512, stages: 4 },
  stream32: { rows: 32, rowTiles: 1, rowGroups: 4, depthGroups: 2, depth: 128, codeDepth: 128, stages: 3 },
  stream64: { rows: 64, rowTiles: 1, rowGroups: 4, depthGroups: 2, depth: 128, codeDepth: 128, stages: 3 },
};
const LARGEST = 'stream64';
/** With tiles from a list. */
const LISTED = 'listed64';
/** Of more, blocks do not count ids themselves. */
const MAX_COUNTED_ROWS = 1024;
/** What static shared memory may take. */
const STATIC_SHARED_BYTES = 8 * 1024;

export const LISTED_VARIANT: KernelVariant = { kernel: LISTED, maxRows: null };

export function isGroupedStream(kernel: string): boolean {
  return kernel === LISTED || kernel in SHAPES;
}

/** Tiles of which most matrices' rows fill one at most: with even chances twice the mean is rarely exceeded. */
export function groupedStreamVariants(numMatrices: number, slots: number): readonly KernelVariant[] {
  const share = numMatrices === slots ? 1 : numMatrices / (2 * slots);
  const variants = Object.entries(SHAPES).map(([kernel, { rows }]) => ({
    kernel,
    maxRows: Math.floor(Math.min(rows * share, MAX_COUNTED_ROWS / slots)),
  }));
  return variants.filter(({ maxRows }, i) => maxRows > (variants[i - 1]?.maxRows ?? 0));
}

export function groupedStream(launch: CudaLaunch, operands: GroupedOperands): readonly PreparedLaunch[] {
  const isListed = launch.kernel === LISTED;
  const product = stream(launch, operands, isListed);
  return isListed ? [groupRows(launch, operands, SHAPES[LARGEST].rows), product] : [product];
}

function stream(launch: CudaLaunch, operands: GroupedOperands, isListed: boolean): KernelLaunch {
  const { x, weight, scales, bias, y, gate, numMatrices, slots } = operands;
  const shape = SHAPES[isListed ? LARGEST : launch.kernel];
  const { rows, rowTiles, rowGroups: numRowGroups, depthGroups } = shape;
  const depth = itemSize(weight.dtype) === 1 ? shape.codeDepth : shape.depth;
  const tile = 16 * rowTiles * numRowGroups;
  const numHalves = gate === null ? 1 : 2;
  const outputs = weight.rows / numMatrices / numHalves;
  const tileOutputs = tile / numHalves;
  const stageBytes = depth * (tile * itemSize(weight.dtype) + 2 * rows) + STAGE_BARRIER_BYTES;
  const room = launch.gpu.maxSharedMemoryPerBlock - STATIC_SHARED_BYTES;
  const stages = Math.min(shape.stages, Math.floor(room / stageBytes));
  const groups = rowGroups(launch, operands);
  return {
    kind: 'kernel',
    source: 'grouped-stream.cu',
    entry: 'grouped_stream',
    defines: {
      X: cudaType(x.dtype),
      CODES: cudaType(weight.dtype),
      BIAS: cudaType(bias?.dtype ?? x.dtype),
      Y: cudaType(y.dtype),
      ROW_TILES: rowTiles,
      ROW_GROUPS: numRowGroups,
      DEPTH_GROUPS: depthGroups,
      X_ROWS: rows,
      TILE_ROWS: rows,
      DEPTH: depth,
      STAGES: stages,
      MATRICES: numMatrices,
      LISTED: isListed ? 1 : 0,
      ...(gate === null ? {} : { GATE: gate }),
    },
    block: 32 * (numRowGroups * depthGroups + 1),
    sharedBytes: Math.max(stages * stageBytes, 4 * depthGroups * rows * (tile + 4)),
    overlaps: true,
    grid: (counts) => [
      maxTiles(counts[launch.rows] * slots, numMatrices, rows),
      Math.ceil(outputs / tileOutputs),
      1,
    ],
    parameters: [
      launch.gpu.computeCapability >= COPY_ENGINE_CAPABILITY
        ? tensorMap(weight, tileOutputs)
        : pointer(weight.address),
      rowCount(launch),
      ...view(x),
      ...idsView(operands),
      ...[groups.order, groups.tiles, groups.numTiles, scales?.address ?? 0, bias?.address ?? 0].map(pointer),
      pointer(y.address),
      ...[slots, weight.columns, outputs, columnsPerSlot(operands)].map(int),
    ],
  };
}
