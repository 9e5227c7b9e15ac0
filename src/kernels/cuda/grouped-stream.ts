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

/** How a block works: what linear-stream.cuh calls by these names in capitals, and how many stages at most. */
interface Shape {
  readonly rows: number;
  readonly rowTiles: number;
  readonly rowGroups: number;
  readonly depthGroups: number;
  readonly depth: number;
  /** Of weights of codes. */
  readonly codeDepth: number;
  readonly stages: number;
}

/** By the most rows of a tile. */
const SHAPES: Readonly<Record<string, Shape>> = {
  stream8: { rows: 8, rowTiles: 1, rowGroups: 2, depthGroups: 4, depth: 256, codeDepth: 512, stages: 4 },
  stream16: { rows: 16, rowTiles: 1, rowGroups: 2, depthGroups: 4, depth: 256, codeDepth: 512, stages: 4 },
  stream32: { rows: 32, rowTiles: 1, rowGroups: 4, depthGroups: 2, depth: 128, codeDepth: 128, stages: 3 },
  stream64: { rows: 64, rowTiles: 1, rowGroups: 8, depthGroups: 1, depth: 64, codeDepth: 128, stages: 4 },
};
const LARGEST = 'stream64';
/** With tiles from a list. */
const LISTED = 'listed64';
/** Of more, blocks do not count ids themselves. */
const MAX_COUNTED_ROWS = 1024;
/** Of shared memory, by the driver for each block and by alignment. */
const RESERVED_BYTES = 2048;
/** Registers let no more run at once. */
const MAX_BLOCKS = 2;

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
  const { numMatrices, slots } = operands;
  if (launch.kernel === LISTED)
    return [groupRows(launch, operands, SHAPES[LARGEST].rows), stream(launch, operands, SHAPES[LARGEST], 0)];
  const variants = groupedStreamVariants(numMatrices, slots);
  const { maxRows } = variants.find(({ kernel }) => kernel === launch.kernel)!;
  return [stream(launch, operands, SHAPES[launch.kernel], maxRows! * slots)];
}

/** `countedRows`: the most that blocks list themselves; 0 if they are listed already. */
function stream(
  launch: CudaLaunch,
  operands: GroupedOperands,
  shape: Shape,
  countedRows: number,
): KernelLaunch {
  const { x, weight, scales, bias, y, gate, numMatrices, slots } = operands;
  const { rows, rowTiles, rowGroups: numRowGroups, depthGroups } = shape;
  const tile = 16 * rowTiles * numRowGroups;
  const numHalves = gate === null ? 1 : 2;
  const [outputs, tileOutputs] = [weight.rows / numMatrices / numHalves, tile / numHalves];
  const { depth, stages, sharedBytes, numBlocks } = fit(launch, operands, shape, countedRows);
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
      COUNTED_ROWS: countedRows,
      ...(gate === null ? {} : { GATE: gate }),
    },
    block: 32 * (numRowGroups * depthGroups + 1),
    sharedBytes,
    overlaps: true,
    grid: (counts) => {
      const numTiles = maxTiles(counts[launch.rows] * slots, numMatrices, rows);
      return [Math.min(numBlocks, numTiles * Math.ceil(outputs / tileOutputs)), 1, 1];
    },
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

/** The stages of a block such that two run on a multiprocessor, or else one; and how many blocks run at once. */
function fit(
  { gpu }: CudaLaunch,
  { weight, numMatrices }: GroupedOperands,
  { rows, rowTiles, rowGroups: numRowGroups, depthGroups, ...shape }: Shape,
  countedRows: number,
): {
  readonly depth: number;
  readonly stages: number;
  readonly sharedBytes: number;
  readonly numBlocks: number;
} {
  const tile = 16 * rowTiles * numRowGroups;
  const depth = itemSize(weight.dtype) === 1 ? shape.codeDepth : shape.depth;
  const stageBytes = depth * (tile * itemSize(weight.dtype) + 2 * rows) + STAGE_BARRIER_BYTES;
  const listBytes = 4 * countedRows + 16 * maxTiles(countedRows, numMatrices, rows);
  const staticBytes = 4 * depthGroups * rows * (tile + 4) + 8 * rows + 4 * numMatrices + listBytes;
  const besides = staticBytes + RESERVED_BYTES;
  const stagesOf = (blocks: number): number =>
    Math.min(shape.stages, Math.floor((gpu.maxSharedMemoryPerBlock / blocks - besides) / stageBytes));
  const blocks = stagesOf(MAX_BLOCKS) >= 2 ? MAX_BLOCKS : 1;
  const stages = stagesOf(blocks);
  return { depth, stages, sharedBytes: stages * stageBytes, numBlocks: blocks * gpu.numMultiprocessors };
}
