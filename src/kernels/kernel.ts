// What the compiler must know of a kernel, without a device: the launch descriptions beside each kernel's source.
import type { FloatDType, KVCacheDType } from '../tensor/dtype.ts';
import type { ActivationPrecision } from '../tensor/precision.ts';
import type { WeightFormat } from '../tensor/weight-format.ts';

/**
 * How a device stores a weight `[rows, columns]`:
 * - `rowMajor`: as written;
 * - `panel16`: rows in groups of 16, padded with zeros. Inside a group columns run outermost, so that one column of
 *   16 rows is contiguous: `[rows/16][columns][16]`;
 * - `panel16x2`: the same with pairs of columns interleaved, as 16-bit dot-product instructions want them:
 *   `[rows/16][columns/2][16][2]`, an odd last column padded with zero;
 * - `panel16words`: the same with 32-bit words of a row's codes, `[rows/16][words][16]`, the last word padded with zeros.
 *   A word is four codes of 8 bits, byte j that of column j; or eight of 4 bits, the low half of byte j that of column j
 *   and the high half that of column j + 4, so that either half of all bytes is four columns;
 * - `evenOdd`: of `uint4` codes, row-major, but of every eight columns the even ones first: 0, 2, 4, 6, 1, 3, 5, 7, so
 *   that one mask takes neighbours out of the two halves of a word.
 */
export type WeightLayout = 'rowMajor' | 'panel16' | 'panel16x2' | 'panel16words' | 'evenOdd';

/** What the columns of a row are padded to a multiple of, in elements of `itemSize` bytes. */
function columnStep(layout: WeightLayout, itemSize: number): number {
  if (layout === 'panel16words') return 4 / itemSize;
  return layout === 'panel16x2' ? 2 : 1;
}

/** Bytes of a weight of `[rows, columns]` elements of `itemSize` bytes in a layout, padding included. */
export function layoutBytes(layout: WeightLayout, rows: number, columns: number, itemSize: number): number {
  if (layout === 'rowMajor' || layout === 'evenOdd') return rows * columns * itemSize;
  const step = columnStep(layout, itemSize);
  return Math.ceil(rows / 16) * 16 * Math.ceil(columns / step) * step * itemSize;
}

/** A kernel fit for launches of up to `maxRows` rows (null: any number). */
export interface KernelVariant {
  readonly kernel: string;
  readonly maxRows: number | null;
}

/** What a launch asks of the kernels of its op. */
export interface KernelQuery {
  /** `x86-64-v3`, `avx512`, `avx512-bf16`, `neon`; on CUDA the compute capability. */
  readonly arch: string;
  /** The type of the weights that are floats. */
  readonly weightDType: FloatDType;
  /** How this launch's weight is quantized; null where it is not. */
  readonly weightFormat: WeightFormat | null;
  readonly kvDType: KVCacheDType;
  /** Whether products may round activations to the weights' 16-bit type, or must keep float32. */
  readonly activationPrecision: ActivationPrecision;
  /** The type of values between launches. */
  readonly activationDType: FloatDType;
  /** A row's result must be the same, bit for bit, whatever else is in the step; off unless given. */
  readonly batchInvariant?: boolean;
  /** Largest number of rows of the launch. */
  readonly maxRows: number;
  /** Columns of the matrix operand `[rows, columns]`, for ops that have one. */
  readonly weightRows: number;
  readonly weightColumns: number;
  /** The op's attributes. */
  readonly attributes: { readonly [key: string]: unknown };
}

/** The launch description of one op on one kind of device. */
export interface KernelDescription {
  readonly op: string;
  /** Layout wanted for the op's weight matrix; `rowMajor` for vectors and for ops without one. */
  weightLayout(query: KernelQuery): WeightLayout;
  /** The kernels read any layout (a row lookup does), so that one weight can serve this op and a pickier one. */
  readonly acceptsAnyLayout?: boolean;
  /** Layout wanted for the scales of a quantized weight; `rowMajor` unless stated. */
  scalesLayout?(query: KernelQuery): WeightLayout;
  /** What of the query no kernel here can do, such as `fp8 products`; null if all is well. */
  lacks?(query: KernelQuery): string | null;
  /** Of a fused op: whether it is better than its parts here; it is unless stated. */
  isWanted?(query: KernelQuery): boolean;
  /** Ordered by `maxRows`; the first that fits a step is launched. */
  variants(query: KernelQuery): readonly KernelVariant[];
  /** Bytes of scratch a launch may use; the plan's workspace is the largest of them. */
  workspaceBytes(query: KernelQuery): number;
}
