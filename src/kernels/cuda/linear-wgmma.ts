// Launch description of linear-wgmma.cu, Hopper's products of many rows: which tile suits a step, and the kernel that does it.
import type { DType } from '../../tensor/dtype.ts';
import { itemSize } from '../../tensor/dtype.ts';
import type { KernelQuery, KernelVariant } from '../kernel.ts';
import {
  cudaType,
  gatedTensorMap,
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
const SPLIT = 2;
/** Of a split product, compared with a whole one: blocks of a cluster wait for each other. */
const SPLIT_TIME = 0.575;

/** How a block works: what linear-wgmma.cu calls by these names in capitals. */
interface Tile {
  readonly outputs: number;
  readonly tokens: number;
  readonly stages: number;
  readonly promote: number;
  /** Whether tiles that are left over are done as two. */
  readonly halves: boolean;
  /** Blocks that a multiprocessor holds. */
  readonly minBlocks: number;
  /** A round's, compared with that of the largest. */
  readonly time: number;
}

const TILES: Readonly<Record<string, Tile>> = {
  wgmma16: { outputs: 64, tokens: 16, stages: 8, promote: 4, halves: false, minBlocks: 2, time: 0.2 },
  wgmma64: { outputs: 64, tokens: 64, stages: 6, promote: 4, halves: false, minBlocks: 2, time: 0.3 },
  wgmma128: { outputs: 128, tokens: 128, stages: 6, promote: 4, halves: true, minBlocks: 1, time: 0.56 },
  wgmma256: { outputs: 128, tokens: 256, stages: 4, promote: 0, halves: true, minBlocks: 1, time: 1 },
};
const LARGEST = 'wgmma256';
/** A name that ends so is of a product split in two by its inputs. */
const SPLIT_SUFFIX = 'split';

/** Copies in which a tile of a grouped product gets its rows of x, of which it may want a part. */
const GROUPED_BOXES = 4;

/** Steps of up to so many rows have a variant of their own. */
const ROWS = [16, 64, 128, 256, 512, 1024, 2048, null];

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
export function wgmmaVariants({ weightRows }: KernelQuery, minRows = 0): readonly KernelVariant[] {
  return ROWS.filter((maxRows) => maxRows === null || maxRows > minRows).map((maxRows) => ({
    kernel: bestTile(maxRows ?? Infinity, weightRows),
    maxRows,
  }));
}

/** The smallest that takes all rows; for more, the one whose rounds take less time. */
function bestTile(rows: number, outputs: number): string {
  if (rows === Infinity) return LARGEST;
  const small = Object.keys(TILES).find((name) => rows <= TILES[name].tokens && name !== LARGEST);
  const names = small ? [small] : ['wgmma128', LARGEST];
  const [best] = names
    .map((name) => {
      const full = fullness(name, rows, outputs);
      const isSplit = SPLIT * full <= 1;
      // A last round of half the places or fewer takes half the time.
      const rounds = isSplit ? SPLIT_TIME : Math.max(1, Math.ceil(2 * full) / 2);
      return { name: isSplit ? name + SPLIT_SUFFIX : name, time: rounds * TILES[name].time };
    })
    .sort((a, b) => a.time - b.time);
  return best.name;
}

/** Tiles for each place that a block may have. */
function fullness(name: string, rows: number, numOutputs: number): number {
  const { tokens, outputs, minBlocks } = TILES[name];
  return (Math.ceil(rows / tokens) * Math.ceil(numOutputs / outputs)) / (minBlocks * HOPPER_MULTIPROCESSORS);
}

/** Rows of x that a tile takes. */
export function tileTokens(kernel: string): number {
  return TILES[kernel].tokens;
}

export function wgmma(launch: CudaLaunch, operands: WgmmaOperands): KernelLaunch {
  const { x, xScales, weight, scales, bias, y, gate, groups } = operands;
  const split = launch.kernel.endsWith(SPLIT_SUFFIX) ? SPLIT : 1;
  const name = split > 1 ? launch.kernel.slice(0, -SPLIT_SUFFIX.length) : launch.kernel;
  const { outputs, tokens, stages, promote, halves, minBlocks } = TILES[name];
  const width = gate === null ? outputs : outputs / 2;
  const boxes = groups ? GROUPED_BOXES : halves && split === 1 ? 2 : 1;
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
      SPLIT: split,
      STAGES: stages,
      PROMOTE: x.dtype === 'float8_e4m3fn' ? promote : 0,
      MIN_BLOCKS: minBlocks,
      IS_ALIGNED: y.address % 16 === 0 && (y.rowStride * itemSize(y.dtype)) % 16 === 0 ? 1 : 0,
    },
    block: 2 * outputs + 128,
    sharedBytes: sharedBytes(name, width, x.dtype, y.dtype),
    overlaps: true,
    grid: (counts) => {
      const numRows = counts[launch.rows];
      const numTokenTiles = groups ? groups.maxTiles(numRows) : Math.ceil(numRows / tokens);
      const numTiles = numTokenTiles * Math.ceil(y.columns / width);
      const numPlaces = minBlocks * launch.gpu.numMultiprocessors;
      return [split > 1 ? numTiles : Math.min(numTiles, numPlaces), split, 1];
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
      int(weight.columns),
      int(y.columns),
    ],
  };
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
