// Launch descriptions of weightOnlyLinear and quantizedLinear: codes streamed into tensor cores for few rows; for many, Hopper's
// products of codes, or cuBLASLt with the weight made 16-bit numbers; and a plain kernel for what none of them takes.
import { itemSize, type DType } from '../../tensor/dtype.ts';
import type { KernelQuery, KernelVariant, WeightLayout } from '../kernel.ts';
import {
  COPY_ENGINE_CAPABILITY,
  cudaType,
  hasAlignedRows,
  int,
  matrixOf,
  optionalMatrix,
  optionalView,
  pointer,
  rowCount,
  singleKernel,
  tensorMap,
  view,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type Defines,
  type KernelLaunch,
  type Parameter,
  type PreparedLaunch,
} from './cuda-kernel.ts';
import { canRow, row, ROW_VARIANT } from './linear-row.ts';
import { hasWgmma, isWgmma, wgmma, WGMMA_WORKSPACE_BYTES, wgmmaVariants } from './linear-wgmma.ts';
import { CUBLASLT_WORKSPACE_BYTES, matmul, STAGE_BARRIER_BYTES } from './linear.ts';

/** Bytes of a row that a warp of the streaming kernel takes at a time; groups are multiples of half of it. */
const PIECE_BYTES = 128;
const STREAM_WARPS = 8;
const TILED_TILE = 64;
/** How a block of the streaming kernel works: what quantized-stream.cu calls by these names in capitals. */
interface StreamShape {
  readonly rowTiles: number;
  readonly xTiles: number;
  readonly stages: number;
  /** Blocks that a multiprocessor holds. */
  readonly minBlocks: number;
}

/** By the most rows of x at once. */
const STREAM_SHAPES: Readonly<Record<string, StreamShape>> = {
  stream8: { rowTiles: 1, xTiles: 1, stages: 3, minBlocks: 3 },
  stream16: { rowTiles: 1, xTiles: 2, stages: 3, minBlocks: 1 },
  stream32: { rowTiles: 1, xTiles: 4, stages: 3, minBlocks: 1 },
};

/** How a block of weight-only-stream.cu works: what linear-stream.cuh calls by these names in capitals. */
interface RingShape {
  readonly rows: number;
  readonly rowTiles: number;
  readonly rowGroups: number;
  readonly depthGroups: number;
  readonly depth: number;
  readonly stages: number;
}

/** By the most rows of x. */
const RING_SHAPES: Readonly<Record<string, RingShape>> = {
  ring8: { rows: 8, rowTiles: 1, rowGroups: 2, depthGroups: 4, depth: 512, stages: 4 },
  ring16: { rows: 16, rowTiles: 1, rowGroups: 2, depthGroups: 4, depth: 512, stages: 3 },
  ring32: { rows: 32, rowTiles: 2, rowGroups: 2, depthGroups: 4, depth: 256, stages: 3 },
  ring64: { rows: 64, rowTiles: 2, rowGroups: 4, depthGroups: 2, depth: 128, stages: 3 },
};

/** A product's operands; `xScales` is null if x is of numbers. */
export interface QuantizedOperands {
  readonly x: CudaMatrix;
  readonly xScales: CudaMatrix | null;
  readonly weight: CudaMatrix;
  readonly scales: CudaMatrix;
  readonly bias: CudaMatrix | null;
  readonly y: CudaMatrix;
}

interface Attributes {
  readonly groupSize: number;
  readonly hasZeros: boolean;
  readonly xGroupSize: number;
}

export const weightOnlyLinear: CudaKernelDescription = {
  ...singleKernel('weightOnlyLinear', prepareWeightOnly),
  weightLayout: codesLayout,
  lacks: lacksCodes,
  variants: weightOnlyVariants,
  workspaceBytes: (query) =>
    canDequantize(query) ? CUBLASLT_WORKSPACE_BYTES + 2 * query.weightRows * query.weightColumns : 0,
};

export const quantizedLinear: CudaKernelDescription = {
  ...singleKernel('quantizedLinear', prepareQuantized),
  weightLayout: codesLayout,
  lacks: lacksCodes,
  variants: quantizedVariants,
  workspaceBytes: (query) =>
    quantizedVariants(query).some(({ kernel }) => isWgmma(kernel)) ? WGMMA_WORKSPACE_BYTES : 0,
};

export function codesLayout({ weightFormat }: KernelQuery): WeightLayout {
  return weightFormat?.dtype === 'uint4' ? 'evenOdd' : 'rowMajor';
}

/** Rows of `uint4` codes are whole words. */
export function lacksCodes({ weightFormat, weightColumns }: KernelQuery): string | null {
  if (weightFormat?.dtype !== 'uint4' || weightColumns % 8 === 0) return null;
  return `uint4 weights of ${weightColumns} columns, which 8 does not divide`;
}

function weightOnlyVariants(query: KernelQuery): readonly KernelVariant[] {
  if (query.batchInvariant)
    return [{ kernel: isHalf(query) && canStream(query) ? 'stream8' : 'tiled', maxRows: null }];
  const last = { kernel: canDequantize(query) ? 'dequantize' : 'tiled', maxRows: null };
  if (!isHalf(query)) return [last];
  const rows = rowVariants(query);
  if (canRing(query)) return [...rows, ...ringVariants(), last];
  return canStream(query) ? [...rows, ...streamVariants(32), last] : [...rows, last];
}

function quantizedVariants(query: KernelQuery): readonly KernelVariant[] {
  const { weightFormat, weightColumns, attributes } = query;
  const { groupSize, xGroupSize } = attributes as unknown as Attributes;
  const isPerRow = groupSize === weightColumns && xGroupSize === weightColumns;
  if (weightFormat!.dtype === 'uint4' || !isPerRow || !canStream(query))
    return [{ kernel: 'tiled', maxRows: null }];
  if (query.batchInvariant) return [{ kernel: hasWgmma(query) ? 'wgmma128' : 'stream8', maxRows: null }];
  const rows = rowVariants(query);
  if (!hasWgmma(query)) return [...rows, ...streamVariants(null)];
  return [...rows, ...wgmmaVariants(query)];
}

function rowVariants(query: KernelQuery): readonly KernelVariant[] {
  const scaling = query.attributes as unknown as Attributes;
  return canRow(query, query.weightFormat!.dtype, scaling) ? [ROW_VARIANT] : [];
}

function streamVariants(maxRows: number | null): readonly KernelVariant[] {
  return [
    { kernel: 'stream8', maxRows: 8 },
    { kernel: 'stream16', maxRows: 16 },
    { kernel: 'stream32', maxRows },
  ];
}

function ringVariants(): readonly KernelVariant[] {
  return Object.entries(RING_SHAPES).map(([kernel, { rows }]) => ({ kernel, maxRows: rows }));
}

function canRing({ weightFormat, weightColumns, attributes }: KernelQuery): boolean {
  const isPerRow = attributes['groupSize'] === weightColumns && !weightFormat!.hasZeros;
  return weightFormat!.dtype !== 'uint4' && isPerRow && weightColumns % 16 === 0;
}

function canStream({ weightFormat, weightColumns, attributes }: KernelQuery): boolean {
  const piece = pieceColumns(weightFormat!.dtype);
  return weightColumns % piece === 0 && (2 * Number(attributes['groupSize'])) % piece === 0;
}

function canDequantize(query: KernelQuery): boolean {
  return isHalf(query) && query.weightColumns % 8 === 0 && Number(query.attributes['groupSize']) % 8 === 0;
}

function isHalf({ activationDType }: KernelQuery): boolean {
  return activationDType !== 'float32';
}

function pieceColumns(dtype: DType): number {
  return PIECE_BYTES / itemSize(dtype);
}

function prepareWeightOnly(launch: CudaLaunch): readonly PreparedLaunch[] {
  const operands = {
    x: matrixOf(launch.inputs[0]),
    xScales: null,
    weight: matrixOf(launch.inputs[1]),
    scales: matrixOf(launch.inputs[2]),
    bias: optionalMatrix(launch.inputs[3]),
    y: matrixOf(launch.outputs[0]),
  };
  if (launch.kernel === 'dequantize' && hasAlignedRows(operands.x)) return dequantized(launch, operands);
  return [product(launch, operands)];
}

function prepareQuantized(launch: CudaLaunch): readonly PreparedLaunch[] {
  const [x, xScales, weight, scales] = launch.inputs.slice(0, 4).map(matrixOf);
  const [bias, y] = [optionalMatrix(launch.inputs[4]), matrixOf(launch.outputs[0])];
  return [product(launch, { x, xScales, weight, scales, bias, y })];
}

/** The plain kernel does what views make too crooked for the others. */
function product(launch: CudaLaunch, operands: QuantizedOperands): KernelLaunch {
  const { x, xScales, weight } = operands;
  const isCodeByCode = xScales === null || x.dtype === weight.dtype;
  if (!hasAlignedRows(x) || !isCodeByCode) return tiled(launch, operands);
  const alone = { ...operands, yScales: null, gate: null };
  if (launch.kernel === ROW_VARIANT.kernel) return row(launch, { ...alone, source: null, calibrated: null });
  if (launch.kernel in RING_SHAPES) return ring(launch, operands);
  if (launch.kernel in STREAM_SHAPES) return stream(launch, operands);
  return isWgmma(launch.kernel) ? wgmma(launch, { ...alone, groups: null }) : tiled(launch, operands);
}

/** What the sources call the operands' types. */
export function types({ x, weight, bias, y }: QuantizedOperands): Defines {
  return {
    X: cudaType(x.dtype),
    CODES: cudaType(weight.dtype),
    BIAS: cudaType(bias?.dtype ?? 'float32'),
    Y: cudaType(y.dtype),
  };
}

function stream(launch: CudaLaunch, operands: QuantizedOperands): KernelLaunch {
  const { x, xScales, weight, scales, bias, y } = operands;
  const { groupSize, hasZeros } = launch.attributes as unknown as Attributes;
  const { rowTiles, xTiles, stages, minBlocks } = STREAM_SHAPES[launch.kernel];
  const [numOutputs, numRows] = [16 * rowTiles, 8 * xTiles];
  const numTiles = Math.ceil(y.columns / numOutputs);
  const tilesPerBlock = Math.ceil(numTiles / (minBlocks * launch.gpu.numMultiprocessors));
  const isGrouped = weight.dtype === 'uint4' || groupSize < weight.columns;
  const groupHalves = isGrouped ? (2 * groupSize) / pieceColumns(weight.dtype) : 0;
  const scaleBytes = isGrouped ? (groupHalves === 1 ? 2 : 1) * (hasZeros ? 8 : 4) : 0;
  const stageBytes = numOutputs * (PIECE_BYTES + scaleBytes);
  return {
    kind: 'kernel',
    source: 'quantized-stream.cu',
    entry: 'quantized_stream',
    defines: {
      ...types(operands),
      ROW_TILES: rowTiles,
      X_TILES: xTiles,
      STAGES: stages,
      MIN_BLOCKS: minBlocks,
      GROUP_HALVES: groupHalves,
      HAS_ZEROS: hasZeros ? 1 : 0,
    },
    block: 32 * STREAM_WARPS,
    sharedBytes: STREAM_WARPS * (stages * stageBytes + 4 * numRows * (numOutputs + 4)),
    overlaps: true,
    grid: (counts) => [Math.ceil(numTiles / tilesPerBlock), Math.ceil(counts[launch.rows] / numRows), 1],
    parameters: [
      rowCount(launch),
      ...view(x),
      ...optionalView(xScales),
      pointer(weight.address),
      pointer(scales.address),
      pointer(bias?.address ?? 0),
      ...view(y),
      int(weight.columns),
      int(y.columns),
      int(tilesPerBlock),
    ],
  };
}

function ring(launch: CudaLaunch, operands: QuantizedOperands): KernelLaunch {
  const { x, weight, scales, bias, y } = operands;
  const { rows, rowTiles, rowGroups, depthGroups, depth, stages } = RING_SHAPES[launch.kernel];
  const tile = 16 * rowTiles * rowGroups;
  const sumBytes = 4 * depthGroups * rows * (tile + 4);
  return {
    kind: 'kernel',
    source: 'weight-only-stream.cu',
    entry: 'weight_only_stream',
    defines: {
      ...types(operands),
      ROW_TILES: rowTiles,
      ROW_GROUPS: rowGroups,
      DEPTH_GROUPS: depthGroups,
      X_ROWS: rows,
      DEPTH: depth,
      STAGES: stages,
    },
    block: 32 * (rowGroups * depthGroups + 1),
    sharedBytes: Math.max(stages * (depth * (tile + 2 * rows) + STAGE_BARRIER_BYTES), sumBytes),
    overlaps: true,
    grid: (counts) => [counts[launch.rows] === 0 ? 0 : Math.ceil(y.columns / tile), 1, 1],
    parameters: [
      ...(launch.gpu.computeCapability >= COPY_ENGINE_CAPABILITY
        ? [tensorMap(weight, tile), tensorMap(x, rows)]
        : [pointer(weight.address), ...view(x), int(x.rows)]),
      rowCount(launch),
      pointer(scales.address),
      pointer(bias?.address ?? 0),
      ...view(y),
      int(weight.columns),
      int(y.columns),
    ],
  };
}

/** The weight as numbers behind cuBLASLt's workspace, then the product. */
function dequantized(launch: CudaLaunch, operands: QuantizedOperands): readonly PreparedLaunch[] {
  const { x, weight, scales, bias, y } = operands;
  const { groupSize, hasZeros } = launch.attributes as unknown as Attributes;
  const { columns, rows } = weight;
  const numbers: CudaMatrix = {
    kind: 'matrix',
    address: launch.workspace + CUBLASLT_WORKSPACE_BYTES,
    dtype: x.dtype,
    rows,
    columns,
    rowStride: columns,
  };
  const decode: KernelLaunch = {
    kind: 'kernel',
    source: 'dequantize-weight.cu',
    entry: 'dequantize_weight',
    defines: { CODES: cudaType(weight.dtype), T: cudaType(x.dtype) },
    block: 256,
    sharedBytes: 0,
    grid: (counts) => [counts[launch.rows] === 0 ? 0 : rows, Math.ceil(columns / 2048), 1],
    parameters: [
      ...[weight, scales, numbers].map(({ address }) => pointer(address)),
      int(columns),
      int(groupSize),
      int(hasZeros),
    ],
  };
  return [decode, ...matmul(launch, { x, weight: numbers, bias, y })];
}

function tiled(launch: CudaLaunch, operands: QuantizedOperands): KernelLaunch {
  const { y } = operands;
  return {
    kind: 'kernel',
    source: 'quantized-tiled.cu',
    entry: 'quantized_tiled',
    defines: types(operands),
    block: 256,
    sharedBytes: 0,
    grid: (counts) => [Math.ceil(y.columns / TILED_TILE), Math.ceil(counts[launch.rows] / TILED_TILE), 1],
    parameters: plainParameters(launch, operands),
  };
}

/** What its kernels' parameters begin with. */
export function plainParameters(
  launch: CudaLaunch,
  operands: QuantizedOperands,
  outputs = operands.y.columns,
): Parameter[] {
  const { x, xScales, weight, scales, bias, y } = operands;
  const { groupSize, hasZeros, xGroupSize = 1 } = launch.attributes as unknown as Attributes;
  return [
    rowCount(launch),
    ...view(x),
    ...optionalView(xScales),
    int(xGroupSize),
    pointer(weight.address),
    pointer(scales.address),
    int(groupSize),
    int(hasZeros),
    pointer(bias?.address ?? 0),
    ...view(y),
    int(weight.columns),
    int(outputs),
  ];
}
