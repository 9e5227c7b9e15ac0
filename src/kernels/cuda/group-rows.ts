// Launch descriptions of group-rows.cu: the rows of a grouped product in the order of its matrices, as products of many rows
// want them. A row is a (token, slot) pair.
import {
  cudaType,
  int,
  pointer,
  rowCount,
  view,
  type CudaLaunch,
  type CudaMatrix,
  type KernelLaunch,
  type ProductOperands,
} from './cuda-kernel.ts';

/** Operands of a grouped product; scales are null where numbers are no codes, ids where slot s takes matrix s. */
export interface GroupedOperands extends ProductOperands {
  readonly ids: CudaMatrix | null;
  readonly numMatrices: number;
  /** Matrices that a token goes through. */
  readonly slots: number;
}

/** What `group_rows` lists, by addresses. */
export interface RowGroups {
  readonly order: number;
  readonly tiles: number;
  readonly numTiles: number;
}

/** The smallest tile that lists are made for. */
const MIN_TILE_ROWS = 16;
const TILE_BYTES = 16;

/** What lies in the workspace, by offsets. */
interface Layout extends RowGroups {
  readonly scales: number;
  readonly gathered: number;
}

/** The most tiles that so many rows make: each matrix has one that is not full. */
export function maxTiles(numRows: number, numMatrices: number, tileRows: number): number {
  return Math.min(numMatrices, numRows) + Math.floor(numRows / tileRows);
}

function layout(numRows: number, numMatrices: number): Layout {
  const align = (bytes: number): number => Math.ceil(bytes / 256) * 256;
  const numTiles = align(4 * numRows);
  const tiles = numTiles + 256;
  const scales = tiles + align(TILE_BYTES * maxTiles(numRows, numMatrices, MIN_TILE_ROWS));
  return { order: 0, numTiles, tiles, scales, gathered: scales + align(4 * numRows) };
}

/** Of the workspace that `groupRows` uses for at most `numRows` rows, and `gatherRows` where it copies `rowBytes` of each. */
export function groupBytes(numRows: number, numMatrices: number, rowBytes: number): number {
  return layout(numRows, numMatrices).gathered + numRows * rowBytes;
}

function layoutOf({ x, numMatrices, slots }: GroupedOperands): Layout {
  return layout(x.rows * slots, numMatrices);
}

export function rowGroups({ workspace }: CudaLaunch, operands: GroupedOperands): RowGroups {
  const { order, tiles, numTiles } = layoutOf(operands);
  return { order: workspace + order, tiles: workspace + tiles, numTiles: workspace + numTiles };
}

/** Lists the rows in the workspace, and tiles of up to `tileRows` of them. */
export function groupRows(launch: CudaLaunch, operands: GroupedOperands, tileRows: number): KernelLaunch {
  const { order, tiles, numTiles } = rowGroups(launch, operands);
  return {
    kind: 'kernel',
    source: 'group-rows.cu',
    entry: 'group_rows',
    defines: groupDefines(operands, tileRows),
    block: 1024,
    sharedBytes: 0,
    overlaps: true,
    grid: (counts) => [counts[launch.rows] === 0 ? 0 : 1, 1, 1],
    parameters: [
      rowCount(launch),
      ...idsView(operands),
      int(operands.slots),
      ...[order, tiles, numTiles].map(pointer),
    ],
  };
}

/** Copies x, after that, to the order of matrices: `[rows, columns]`, and its scales if it is of codes. */
export function gatherRows(
  launch: CudaLaunch,
  operands: GroupedOperands,
  tileRows: number,
): { readonly launch: KernelLaunch; readonly x: CudaMatrix; readonly xScales: CudaMatrix | null } {
  const { x, xScales, weight, slots } = operands;
  const { workspace } = launch;
  const { columns } = weight;
  const rows = x.rows * slots;
  const { order, ...offsets } = layoutOf(operands);
  const [scales, gathered] = [workspace + offsets.scales, workspace + offsets.gathered];
  return {
    x: { ...x, address: gathered, rows, columns, rowStride: columns },
    xScales: xScales && { ...xScales, address: scales, rows, columns: 1, rowStride: 1 },
    launch: {
      kind: 'kernel',
      source: 'group-rows.cu',
      entry: 'gather_grouped',
      defines: groupDefines(operands, tileRows),
      block: 128,
      sharedBytes: 0,
      overlaps: true,
      grid: (counts) => [counts[launch.rows] * slots, 1, 1],
      parameters: [
        rowCount(launch),
        pointer(workspace + order),
        ...view(x),
        pointer(xScales?.address ?? 0),
        { int64: xScales?.rowStride ?? 0 },
        pointer(gathered),
        pointer(scales),
        ...[slots, columns, columnsPerSlot(operands)].map(int),
      ],
    },
  };
}

function groupDefines({ x, numMatrices }: GroupedOperands, tileRows: number): KernelLaunch['defines'] {
  return { X: cudaType(x.dtype), MATRICES: numMatrices, TILE_ROWS: tileRows };
}

export function idsView({ ids }: GroupedOperands): KernelLaunch['parameters'] {
  return [pointer(ids?.address ?? 0), { int64: ids?.rowStride ?? 0 }];
}

/** 0 if all slots of a token read the same columns. */
export function columnsPerSlot({ x, weight }: GroupedOperands): number {
  return x.columns === weight.columns ? 0 : weight.columns;
}
