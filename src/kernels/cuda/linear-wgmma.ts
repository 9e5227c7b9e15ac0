// Launch description of linear-wgmma.cu, Hopper's products of many rows: which tile suits a step, and the kernel that does it.
import { itemSize, type DType } from '../../tensor/dtype.ts';
import type { KernelQuery, KernelVariant } from '../kernel.ts';
import {
  calibratedScales,
  cudaType,
  gatedTensorMap,
  hasAlignedRows,
  int,
  pointer,
  rowCount,
  tensorMap,
  view,
  type CudaLaunch,
  type KernelLaunch,
  type ProductOperands,
} from './cuda-kernel.ts';
import type { RowGroups } from './group-rows.ts';

/** By the compute capability: neither older nor newer chips have wgmma. */
const WGMMA_CAPABILITY = 90;
/** Bytes of a row in a tile's part. */
const DEPTH_BYTES = 128;
/** Of an H100 or H200; what a wave of blocks is. */
const HOPPER_MULTIPROCESSORS = 132;
/** Parts of a tile that a block could do while blocks hand over sums: of a pair, and of more who share tiles as it comes. */
const PAIR_PARTS = 5;
const SHARERS_PARTS = 10;

/** How a block works: what linear-wgmma.cu calls by these names in capitals. */
interface Tile {
  readonly outputs: number;
  readonly tokens: number;
  readonly stages: number;
  readonly promote: number;
  /** Blocks that a multiprocessor holds. */
  readonly minBlocks: number;
  /** A part's, compared with that of the largest. */
  readonly time: number;
}

const TILES: Readonly<Record<string, Tile>> = {
  wgmma16: { outputs: 64, tokens: 16, stages: 8, promote: 4, minBlocks: 2, time: 0.2 },
  wgmma64: { outputs: 128, tokens: 64, stages: 8, promote: 4, minBlocks: 1, time: 0.4 },
  wgmma128: { outputs: 128, tokens: 128, stages: 6, promote: 4, minBlocks: 1, time: 0.56 },
  wgmma192: { outputs: 128, tokens: 192, stages: 5, promote: 4, minBlocks: 1, time: 0.78 },
  wgmma256: { outputs: 128, tokens: 256, stages: 4, promote: 0, minBlocks: 1, time: 1 },
};
const LARGEST = 'wgmma256';
/** A name that ends so is of a product whose blocks take equal shares of all tiles' inputs. */
const SHARED_SUFFIX = 'shared';
/** Up to so many rows memory bounds a product, so that no block may rest. */
const MAX_ROWS_ALWAYS_SHARED = 128;

/** Copies in which a tile of a grouped product gets its rows of x, of which it may want a part. */
const GROUPED_BOXES = 4;

/** Steps of up to so many rows have a variant of their own. */
const ROWS = [16, 64, 128, 192, 256, 384, 512, 1024, 2048, null];

/** `weight` is of x's type; codes have scales. */
export interface WgmmaOperands extends ProductOperands {
  /** Of a grouped product, whose weight stacks matrices and whose x is in their order; null if there is one matrix. */
  readonly groups: WgmmaGroups | null;
}

interface WgmmaGroups extends RowGroups {
  readonly numMatrices: number;
  readonly maxTiles: (numTokens: number) => number;
}

export function hasWgmma({ arch }: Pick<KernelQuery, 'arch'>): boolean {
  return arch === `sm_${WGMMA_CAPABILITY}`;
}

export function isWgmma(kernel: string): boolean {
  return kernel.startsWith('wgmma');
}

/** For steps of more than `minRows` rows. */
export function wgmmaVariants(query: KernelQuery, minRows = 0): readonly KernelVariant[] {
  return ROWS.filter((maxRows) => maxRows === null || maxRows > minRows).map((maxRows) => ({
    kernel: maxRows === null ? LARGEST : bestTile(maxRows, query),
    maxRows,
  }));
}

/** The smallest that takes all rows; for many, the one that takes less time, whole or shared. */
function bestTile(
  rows: number,
  { weightRows, weightColumns, weightFormat, weightDType }: KernelQuery,
): string {
  const numParts = partsOf(weightColumns, weightFormat?.dtype ?? weightDType);
  if (rows <= MAX_ROWS_ALWAYS_SHARED)
    return Object.keys(TILES).find((name) => rows <= TILES[name].tokens)! + SHARED_SUFFIX;
  const [best] = ['wgmma128', ...(weightFormat === null ? [] : ['wgmma192']), LARGEST]
    .flatMap((name) => {
      const { time } = TILES[name];
      const numTiles = tilesOf(name, rows, weightRows);
      const blocks = numSharers(name, numTiles);
      const handOver = blocks === 2 * numTiles ? PAIR_PARTS : SHARERS_PARTS;
      const whole = { name, time: time * rounds(name, numTiles) * numParts };
      // Sharers of many tiles go each its own way through the weight, which L2 does not hold.
      if (blocks < 2 * numTiles && rows > TILES[name].tokens) return [whole];
      return [
        whole,
        { name: name + SHARED_SUFFIX, time: time * ((numTiles / blocks) * numParts + handOver) },
      ];
    })
    .sort((a, b) => a.time - b.time);
  return best.name;
}

function tilesOf(name: string, rows: number, numOutputs: number): number {
  return Math.ceil(rows / TILES[name].tokens) * Math.ceil(numOutputs / TILES[name].outputs);
}

/** Of tiles that blocks have whole; a last one of half the places or fewer takes half the time, as its tiles are done as two. */
function rounds(name: string, numTiles: number): number {
  return Math.max(1, Math.ceil((2 * numTiles) / numPlaces(name)) / 2);
}

function numPlaces(name: string): number {
  return TILES[name].minBlocks * HOPPER_MULTIPROCESSORS;
}

/** Blocks that share so many tiles: two to each, where there are enough. */
function numSharers(name: string, numTiles: number): number {
  return Math.min(2 * numTiles, numPlaces(name));
}

/** Where blocks leave sums for each other. */
export const WGMMA_WORKSPACE_BYTES = Math.max(
  ...Object.entries(TILES).map(([name, { outputs, tokens }]) => 4 * outputs * tokens * numPlaces(name)),
);

/** Rows of x that a tile takes. */
export function tileTokens(kernel: string): number {
  return TILES[kernel].tokens;
}

export function wgmma(launch: CudaLaunch, operands: WgmmaOperands): KernelLaunch {
  const { x, xScales, weight, scales, bias, y, yScales, gate, groups } = operands;
  const isShared = launch.kernel.endsWith(SHARED_SUFFIX);
  const name = isShared ? launch.kernel.slice(0, -SHARED_SUFFIX.length) : launch.kernel;
  const { outputs, tokens, stages, promote, minBlocks } = TILES[name];
  const width = gate === null ? outputs : outputs / 2;
  const boxes = groups ? GROUPED_BOXES : isShared ? 1 : 2;
  return {
    kind: 'kernel',
    source: 'linear-wgmma.cu',
    entry: 'linear_wgmma',
    defines: {
      X: cudaType(x.dtype),
      BIAS: cudaType(bias?.dtype ?? 'float32'),
      Y: cudaType(y.dtype),
      ...(gate === null ? {} : { GATE: gate }),
      ...(groups && { MATRICES: groups.numMatrices, TILE_ROWS: tokens }),
      OUTPUTS: outputs,
      TOKENS: tokens,
      BOXES: boxes,
      SHARED: isShared ? 1 : 0,
      STAGES: stages,
      PROMOTE: x.dtype === 'float8_e4m3fn' ? promote : 0,
      MIN_BLOCKS: minBlocks,
      IS_ALIGNED: hasAlignedRows(y) ? 1 : 0,
    },
    block: 2 * outputs + 128,
    sharedBytes: sharedBytes(name, width, x.dtype, y.dtype),
    overlaps: true,
    grid: (counts) => {
      const numRows = counts[launch.rows];
      const numTokenTiles = groups ? groups.maxTiles(numRows) : Math.ceil(numRows / tokens);
      const numTiles = numTokenTiles * Math.ceil(y.columns / width);
      const numBlocks = isShared
        ? numSharers(name, numTiles)
        : Math.min(numTiles, minBlocks * launch.gpu.numMultiprocessors);
      return [numBlocks, 1, 1];
    },
    parameters: [
      tensorMap(x, tokens / boxes),
      gate === null ? tensorMap(weight, outputs) : gatedTensorMap(weight, outputs, groups?.numMatrices ?? 1),
      rowCount(launch),
      ...(groups ? [groups.order, groups.tiles, groups.numTiles].map(pointer) : []),
      ...view(xScales ?? x),
      pointer(scales?.address ?? 0),
      pointer(bias?.address ?? 0),
      ...view(y),
      ...calibratedScales(yScales?.calibrated ?? null),
      ...view(yScales?.ofRows ?? y),
      ...(isShared ? [pointer(launch.workspace), pointer(launch.constant(flags(name)))] : []),
      int(weight.columns),
      int(y.columns),
    ],
  };
}

/** Of each warp that multiplies: whether it has left sums that nobody has taken yet. */
function flags(name: string): Float32Array {
  return new Float32Array(numPlaces(name) * (TILES[name].outputs / 16));
}

/** Of a tile's inputs. */
function partsOf(columns: number, dtype: DType): number {
  return Math.ceil((columns * itemSize(dtype)) / DEPTH_BYTES);
}

/** The struct Memory of linear-wgmma.cu, aligned to 1024 bytes. */
function sharedBytes(name: string, width: number, xDType: DType, yDType: DType): number {
  const { outputs, tokens, stages } = TILES[name];
  const yBytes = itemSize(yDType);
  const numGroups = outputs / 64;
  const turned = numGroups * Math.min(tokens, 128 / yBytes) * ((width / numGroups) * yBytes + 16);
  const xScales = itemSize(xDType) === 1 ? 4 * tokens : 8;
  return 1024 + stages * (DEPTH_BYTES * (outputs + tokens) + 16) + turned + xScales;
}
