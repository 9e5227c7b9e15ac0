// Launch descriptions of linear: weights streamed by our own kernel for few rows, cuBLASLt for many, and a plain kernel for
// shapes and types that neither takes.
import { itemSize } from '../../tensor/dtype.ts';
import type { KernelQuery, KernelVariant } from '../kernel.ts';
import {
  COPY_ENGINE_CAPABILITY,
  cudaType,
  hasAlignedRows,
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  rowCount,
  singleKernel,
  tensorMap,
  view,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type KernelLaunch,
  type PreparedLaunch,
} from './cuda-kernel.ts';
import { hasWgmma, isWgmma, wgmma, wgmmaVariants } from './linear-wgmma.ts';
import { invariant, INVARIANT_VARIANTS, isInvariant } from './linear-invariant.ts';
import { canRow, row, ROW_VARIANT } from './linear-row.ts';

/** Of more, our own kernel does Hopper's products of 16-bit numbers. */
const MAX_CUBLASLT_ROWS = 896;
/** What cuBLASLt may use; it is told so. */
export const CUBLASLT_WORKSPACE_BYTES = 32 * 2 ** 20;
/** Rows of x that the streaming kernel takes at once, by variant; 8 to a tensor-core tile. */
const STREAMED_ROWS = [8, 16];
const TILE = 64;
export const STAGE_BARRIER_BYTES = 16;

export const linear: CudaKernelDescription = {
  ...singleKernel('linear', prepare),
  variants,
  workspaceBytes: (query) => (usesCublasLt(query) ? CUBLASLT_WORKSPACE_BYTES : 0),
};

function usesCublasLt({ weightDType, activationDType, weightColumns }: KernelQuery): boolean {
  return weightDType === activationDType && (weightColumns * itemSize(weightDType)) % 16 === 0;
}

function variants(query: KernelQuery): readonly KernelVariant[] {
  if (!usesCublasLt(query)) return [{ kernel: 'tiled', maxRows: null }];
  if (query.batchInvariant)
    return query.weightDType === 'float32' ? [{ kernel: 'tiled', maxRows: null }] : INVARIANT_VARIANTS;
  if (query.weightDType === 'float32') return [{ kernel: 'cublaslt', maxRows: null }];
  const streams = [
    ...(canRow(query, query.weightDType, null) ? [ROW_VARIANT] : []),
    ...STREAMED_ROWS.map((rows) => ({ kernel: `stream${rows}`, maxRows: rows })),
  ];
  if (!hasWgmma(query)) return [...streams, { kernel: 'cublaslt', maxRows: null }];
  return [
    ...streams,
    { kernel: 'cublaslt', maxRows: MAX_CUBLASLT_ROWS },
    ...wgmmaVariants(query, MAX_CUBLASLT_ROWS),
  ];
}

/** What other products have besides. */
const OF_NUMBERS = { xScales: null, scales: null, yScales: null, gate: null } as const;

function prepare(launch: CudaLaunch): readonly PreparedLaunch[] {
  const x = matrixOf(launch.inputs[0]);
  if (launch.kernel === 'tiled' || !hasAlignedRows(x)) return [tiled(launch)];
  if (isInvariant(launch.kernel)) return [invariant(launch, operands(launch), parameters(launch))];
  if (isWgmma(launch.kernel)) return [wgmma(launch, { ...operands(launch), ...OF_NUMBERS, groups: null })];
  if (launch.kernel === ROW_VARIANT.kernel)
    return [row(launch, { ...operands(launch), ...OF_NUMBERS, source: null, calibrated: null })];
  return launch.kernel === 'cublaslt'
    ? matmul(launch, operands(launch))
    : [stream(launch, Number(launch.kernel.slice('stream'.length)))];
}

export interface LinearOperands {
  readonly x: CudaMatrix;
  readonly weight: CudaMatrix;
  readonly bias: CudaMatrix | null;
  readonly y: CudaMatrix;
}

function operands({ inputs, outputs }: CudaLaunch): LinearOperands {
  return {
    x: matrixOf(inputs[0]),
    weight: matrixOf(inputs[1]),
    bias: optionalMatrix(inputs[2]),
    y: matrixOf(outputs[0]),
  };
}

function parameters(launch: CudaLaunch): KernelLaunch['parameters'] {
  const { x, weight, bias, y } = operands(launch);
  return [
    rowCount(launch),
    ...view(x),
    pointer(weight.address),
    pointer(bias?.address ?? 0),
    ...view(y),
    int(x.columns),
    int(y.columns),
  ];
}

/** How a block of the streaming kernel works: what linear-stream.cuh calls by these names in capitals. */
const STREAM = { rowTiles: 1, rowGroups: 2, depthGroups: 4, depth: 256, stages: 4 } as const;

function stream(launch: CudaLaunch, maxRows: number): KernelLaunch {
  const { rowTiles, rowGroups, depthGroups, depth, stages } = STREAM;
  const { x, weight, bias, y } = operands(launch);
  const tile = 16 * rowTiles * rowGroups;
  return {
    kind: 'kernel',
    source: 'linear-stream.cu',
    entry: 'linear_stream',
    defines: {
      X: cudaType(x.dtype),
      Y: cudaType(y.dtype),
      ROW_TILES: rowTiles,
      ROW_GROUPS: rowGroups,
      DEPTH_GROUPS: depthGroups,
      X_ROWS: maxRows,
      DEPTH: depth,
      STAGES: stages,
    },
    block: 32 * (rowGroups * depthGroups + 1),
    sharedBytes: stages * (2 * depth * (tile + maxRows) + STAGE_BARRIER_BYTES),
    overlaps: true,
    grid: (counts) => [counts[launch.rows] === 0 ? 0 : Math.ceil(y.columns / tile), 1, 1],
    parameters: [
      ...(launch.gpu.computeCapability >= COPY_ENGINE_CAPABILITY
        ? [tensorMap(weight, tile), tensorMap(x, maxRows)]
        : [pointer(weight.address), ...view(x), int(x.rows)]),
      rowCount(launch),
      pointer(bias?.address ?? 0),
      ...view(y),
      int(x.columns),
      int(y.columns),
    ],
  };
}

function tiled(launch: CudaLaunch): KernelLaunch {
  const { x, weight, y } = operands(launch);
  return {
    kind: 'kernel',
    source: 'linear-tiled.cu',
    entry: 'linear_tiled',
    defines: { X: cudaType(x.dtype), W: cudaType(weight.dtype), Y: cudaType(y.dtype) },
    block: 256,
    sharedBytes: 0,
    grid: (counts) => [Math.ceil(y.columns / TILE), Math.ceil(counts[launch.rows] / TILE), 1],
    parameters: parameters(launch),
  };
}

export function matmul(
  launch: CudaLaunch,
  { x, weight, bias, y }: LinearOperands,
): readonly PreparedLaunch[] {
  const isFused = bias?.dtype === y.dtype;
  const product = { kind: 'matmul', x, weight, y, bias: isFused ? bias : null, rows: launch.rows } as const;
  return bias === null || isFused ? [product] : [product, addBias(launch, y, bias)];
}

function addBias(launch: CudaLaunch, y: CudaMatrix, bias: CudaMatrix): KernelLaunch {
  return {
    kind: 'kernel',
    source: 'add-bias.cu',
    entry: 'add_bias',
    defines: { Y: cudaType(y.dtype), W: cudaType(bias.dtype) },
    block: 256,
    sharedBytes: 0,
    grid: (counts) => [counts[launch.rows], Math.ceil(y.columns / 256), 1],
    parameters: [rowCount(launch), ...view(y), pointer(bias.address), int(y.columns)],
  };
}
