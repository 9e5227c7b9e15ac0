// What the CUDA device adds to a launch description: which kernels a launch becomes, and with what parameters.
import type { DType, KVCacheDType } from '../../tensor/dtype.ts';
import { itemSize } from '../../tensor/dtype.ts';
import type { KernelDescription } from '../kernel.ts';

export type LaunchAttributes = { readonly [key: string]: unknown };

/** What a grid may depend on. A replayed step has the numbers of its bucket; kernels read the true ones on the device. */
export interface StepCounts {
  readonly numTokens: number;
  readonly numSeqs: number;
  readonly numLogitRows: number;
  /** Sequences with one query. */
  readonly numDecodeSeqs: number;
  /** Pieces of `QUERIES_PER_TILE` queries of the other sequences. */
  readonly numQueryTiles: number;
}

export const QUERIES_PER_TILE = 128;
/** Of a query tile in the step's list: `Queries` of query-tiles.cuh. */
export const QUERY_TILE_WORDS = 4;
/** First compute capability with the engine that copies tiles to shared memory: Hopper's. */
export const COPY_ENGINE_CAPABILITY = 90;

/** A matrix in device memory, rows `rowStride` elements apart; a vector is one row. */
export interface CudaMatrix {
  readonly kind: 'matrix';
  readonly address: number;
  readonly dtype: DType;
  readonly rows: number;
  readonly columns: number;
  readonly rowStride: number;
}

/** Of a product by rows of weights; `xScales` is null if x is of numbers, `scales` if the weight is. */
export interface ProductOperands {
  readonly x: CudaMatrix;
  readonly xScales: CudaMatrix | null;
  readonly weight: CudaMatrix;
  readonly scales: CudaMatrix | null;
  readonly bias: CudaMatrix | null;
  readonly y: CudaMatrix;
  /** The function by which the first half of a matrix's outputs gates the second, which is y; null if all outputs are. */
  readonly gate: string | null;
  /** null if y is of numbers. */
  readonly yScales: StaticScales | null;
}

/** Of codes under a scale known beforehand: the largest of those that were `calibrated`; where each row's goes. */
export interface StaticScales {
  readonly calibrated: CudaMatrix;
  readonly ofRows: CudaMatrix;
}

export type CudaOperand =
  | CudaMatrix
  | { readonly kind: 'ropeTable'; readonly address: number; readonly rotaryDim: number }
  | { readonly kind: 'input'; readonly address: number; readonly strideAddress: number }
  | {
      readonly kind: 'kvCache';
      readonly keys: number;
      readonly values: number;
      readonly dtype: KVCacheDType;
      readonly numKvHeads: number;
      readonly keyHeadDim: number;
      readonly valueHeadDim: number;
    }
  | { readonly kind: 'none' };

export interface CudaGpu {
  /** 90 for 9.0. */
  readonly computeCapability: number;
  readonly maxSharedMemoryPerBlock: number;
  readonly numMultiprocessors: number;
}

/** A launch of the plan with everything placed. */
export interface CudaLaunch {
  readonly op: string;
  /** Which of the description's variants. */
  readonly kernel: string;
  readonly attributes: LaunchAttributes;
  readonly inputs: readonly CudaOperand[];
  readonly outputs: readonly CudaOperand[];
  /** The count that the launch's rows follow, and where it lies on the device. */
  readonly rows: 'numTokens' | 'numSeqs' | 'numLogitRows';
  readonly addresses: StepAddresses;
  readonly workspace: number;
  /** Tokens in a KV block. */
  readonly blockSize: number;
  readonly gpu: CudaGpu;
  /**
   * Puts numbers into device memory for as long as the plan is loaded. Launches with equal ones share them: what a kernel
   * writes there, once the launch ahead of it has ended, it restores.
   */
  constant(values: Float32Array): number;
}

/** Where kernels find a step's numbers. */
export interface StepAddresses {
  readonly numTokens: number;
  readonly numSeqs: number;
  readonly numLogitRows: number;
  readonly numQueryTiles: number;
  /** `QUERY_TILE_WORDS` of each query tile, those that see most keys first. */
  readonly queryTiles: number;
}

/** In the order of the kernel's declaration. */
export type Parameter =
  | { readonly pointer: number }
  | { readonly int64: number }
  | { readonly int32: number }
  | { readonly float32: number }
  | { readonly float64: number }
  /** A `CUtensorMap`, by which Hopper's copy engine finds a matrix. */
  | { readonly tensorMap: TensorMap }
  /** Known when the step is. */
  | { readonly count: (counts: StepCounts) => number };

/**
 * Boxes of a matrix that arrive as rows of 128 bytes, swizzled by 128 bytes; past the matrix's end they hold zeros. With
 * `boxAtoms`, a box is so many neighbours of that kind, one after the other, of rows of a multiple of 128 bytes.
 */
export interface TensorMap {
  /** A multiple of 16. */
  readonly address: number;
  readonly itemBytes: number;
  readonly rows: number;
  readonly columns: number;
  /** A multiple of 16. */
  readonly rowBytes: number;
  /** At most 256. */
  readonly boxRows: number;
  /**
   * The rows stack so many matrices, of each of which eight rows of the first half and eight of the second come in turn; either half
   * has a multiple of eight.
   */
  readonly interleavedMatrices?: number;
  readonly boxAtoms?: number;
}

export type Defines = Readonly<Record<string, string | number>>;

/** One kernel with all that its launch needs. */
export interface KernelLaunch {
  readonly kind: 'kernel';
  /** File in this folder. */
  readonly source: string;
  /** Function in it. */
  readonly entry: string;
  readonly defines: Defines;
  readonly block: number;
  /** Dynamic shared memory. */
  readonly sharedBytes: number;
  /** Starts while the launch before it drains: every thread calls `wait_for_previous` before it meets what that one touches. */
  readonly overlaps?: boolean;
  /** A grid with a zero is not launched. */
  readonly grid: (counts: StepCounts) => readonly [x: number, y: number, z: number];
  readonly parameters: readonly Parameter[];
}

/** A product that cuBLASLt does: y = x · weightᵀ + bias. */
export interface MatmulLaunch {
  readonly kind: 'matmul';
  readonly x: CudaMatrix;
  readonly weight: CudaMatrix;
  readonly y: CudaMatrix;
  readonly bias: CudaMatrix | null;
  readonly rows: CudaLaunch['rows'];
}

export type PreparedLaunch = KernelLaunch | MatmulLaunch;

export interface CudaKernelDescription extends KernelDescription {
  prepare(launch: CudaLaunch): readonly PreparedLaunch[];
}

/** A description of the common case: one kernel for every shape and type, weights as written, no workspace. */
export function singleKernel(
  op: string,
  prepare: (launch: CudaLaunch) => readonly PreparedLaunch[],
): CudaKernelDescription {
  return {
    op,
    weightLayout: () => 'rowMajor',
    variants: () => [{ kernel: op, maxRows: null }],
    workspaceBytes: () => 0,
    prepare,
  };
}

/** The types' names in the sources. */
export function cudaType(dtype: DType): string {
  const names: Partial<Record<DType, string>> = {
    float32: 'float',
    bfloat16: 'bf16',
    float16: 'fp16',
    int8: 'int8',
    uint4: 'uint4_codes',
    float8_e4m3fn: 'e4m3',
  };
  const name = names[dtype];
  if (name === undefined) throw new Error(`no kernel computes with ${dtype}`);
  return name;
}

export function matrixOf(operand: CudaOperand | undefined): CudaMatrix {
  if (operand?.kind === 'matrix') return operand;
  throw new Error(`a kernel wants a matrix, not ${operand?.kind ?? 'nothing'}`);
}

export function optionalMatrix(operand: CudaOperand | undefined): CudaMatrix | null {
  return operand?.kind === 'matrix' ? operand : null;
}

/** Address of a step's array. */
export function inputOf(operand: CudaOperand | undefined): Extract<CudaOperand, { kind: 'input' }> {
  if (operand?.kind === 'input') return operand;
  throw new Error(`a kernel wants an array of the step, not ${operand?.kind ?? 'nothing'}`);
}

export function cacheOf(operand: CudaOperand | undefined): Extract<CudaOperand, { kind: 'kvCache' }> {
  if (operand?.kind === 'kvCache') return operand;
  throw new Error(`a kernel wants a KV cache, not ${operand?.kind ?? 'nothing'}`);
}

export function pointer(address: number): Parameter {
  return { pointer: address };
}

/** A matrix as kernels take it: address, then row stride. */
export function view({ address, rowStride }: CudaMatrix): readonly Parameter[] {
  return [{ pointer: address }, { int64: rowStride }];
}

/** Null: in place of a matrix that there is not. */
export function optionalView(matrix: CudaMatrix | null): readonly Parameter[] {
  return matrix ? view(matrix) : [pointer(0), { int64: 0 }];
}

/** A matrix as Hopper's copy engine finds it, `boxRows` rows at a time. */
export function tensorMap(
  { address, dtype, rows, columns, rowStride }: CudaMatrix,
  boxRows: number,
): Parameter {
  const itemBytes = itemSize(dtype);
  return { tensorMap: { address, itemBytes, rows, columns, rowBytes: rowStride * itemBytes, boxRows } };
}

/** The same of a weight that stacks matrices whose first half of rows gates the second. */
export function gatedTensorMap(matrix: CudaMatrix, boxRows: number, interleavedMatrices: number): Parameter {
  const { address, dtype, rows, columns, rowStride } = matrix;
  const itemBytes = itemSize(dtype);
  const rowBytes = rowStride * itemBytes;
  return { tensorMap: { address, itemBytes, rows, columns, rowBytes, boxRows, interleavedMatrices } };
}

/** Boxes of rows of 128 bytes, whatever the rows hold. */
export function byteMap(
  { address, dtype, rows, columns, rowStride }: CudaMatrix,
  box: Pick<TensorMap, 'boxRows' | 'boxAtoms' | 'interleavedMatrices'>,
): Parameter {
  const bytes = { columns: columns * itemSize(dtype), rowBytes: rowStride * itemSize(dtype) };
  return { tensorMap: { address, itemBytes: 1, rows, ...bytes, ...box } };
}

/** Scales as kernels take them, the largest of which counts: address and number. */
export function calibratedScales(scales: CudaMatrix | null): readonly Parameter[] {
  return [pointer(scales?.address ?? 0), int(scales?.columns ?? 0)];
}

export function int(value: unknown): Parameter {
  return { int32: Number(value) };
}

export function float(value: unknown): Parameter {
  return { float32: Number(value) };
}

/** Where the number of the launch's rows lies. */
export function rowCount({ rows, addresses }: CudaLaunch): Parameter {
  return pointer(addresses[rows]);
}

/** Whether each row begins at a multiple of 16 bytes, as 16-byte accesses and the copy engine want it. */
export function hasAlignedRows({ address, rowStride, dtype }: CudaMatrix): boolean {
  return address % 16 === 0 && (rowStride * itemSize(dtype)) % 16 === 0;
}

/** Elements per access: the most, up to 16 bytes, that divide `columns` and every place and stride. */
export function vectorWidth(columns: number, matrices: readonly (CudaMatrix | null)[]): number {
  const present = matrices.filter((matrix) => matrix !== null);
  const widest = Math.min(...present.map(({ dtype }) => 16 / itemSize(dtype)));
  return (
    [8, 4, 2].find((width) => width <= widest && columns % width === 0 && present.every(isAligned(width))) ??
    1
  );
}

function isAligned(width: number) {
  return ({ address, dtype, rows, rowStride }: CudaMatrix): boolean =>
    address % (width * itemSize(dtype)) === 0 && (rows === 1 || rowStride % width === 0);
}

/** 32-bit registers of a multiprocessor, and those of a thread besides what it keeps of rows. */
const REGISTERS = 65536;
const OTHER_REGISTERS = 32;

/** Blocks of a multiprocessor that take row after row, whose threads keep so many registers' worth of rows. */
export function rowBlocks(block: number, rowRegisters: number): number {
  const numThreads = rowRegisters <= OTHER_REGISTERS ? REGISTERS / 64 : REGISTERS / 128;
  return Math.max(1, Math.floor(numThreads / block));
}

/** A grid of such blocks, for rows of `numGroups` groups of columns: as many as find a place at once. */
export function rowGrid(
  { gpu, rows }: CudaLaunch,
  numBlocks: number,
  numGroups: number,
): KernelLaunch['grid'] {
  const most = Math.ceil((gpu.numMultiprocessors * numBlocks) / numGroups);
  return (counts) => [Math.min(counts[rows], most), numGroups, 1];
}

/** Threads for `pieces` pieces of work: whole warps, at most `most`. */
export function threadsFor(pieces: number, most: number): number {
  return Math.min(most, Math.max(32, Math.ceil(pieces / 32) * 32));
}
