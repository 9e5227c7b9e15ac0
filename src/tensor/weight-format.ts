// How quantized weights and activations are written: the codes' type, and which of them share a scale.
import type { CodeDType } from './dtype.ts';

/** value = (code − zero) · scale. Without zeros the zero is 0, for `uint4` 8. */
export interface WeightFormat {
  readonly dtype: CodeDType;
  /** Columns that share a scale; null: the whole row, that is per output channel. */
  readonly groupSize: number | null;
  readonly hasZeros: boolean;
}

export interface ActivationFormat {
  readonly dtype: 'int8' | 'float8_e4m3fn';
  /** Columns of a token that share a scale; null: all of them. */
  readonly groupSize: number | null;
  /** One calibrated scale for the whole tensor. */
  readonly isStatic: boolean;
}

/** A format whose groups are known for a matrix at hand. */
export type GroupedFormat = WeightFormat & { readonly groupSize: number };

/** Of a matrix with so many columns. */
export function grouped(format: WeightFormat, columns: number): GroupedFormat {
  return { ...format, groupSize: format.groupSize ?? columns };
}

/** Scales of a row: one for each group, or pairs of scale and zero, so that a range of groups is a range of columns. */
export function scaleColumns({ groupSize, hasZeros }: WeightFormat, columns: number): number {
  return (columns / (groupSize ?? columns)) * (hasZeros ? 2 : 1);
}

/** Where codes without zeros of their own have it. */
export function impliedZero(dtype: CodeDType): number {
  return dtype === 'uint4' ? 8 : 0;
}

/** The largest group size up to `wanted` that divides `columns`. */
export function largestGroupSize(columns: number, wanted: number): number {
  let size = Math.min(wanted, columns);
  while (columns % size !== 0) size--;
  return size;
}

/** `int8 per channel`, `uint4 in groups of 128 with zeros`, for people. */
export function describeFormat({ dtype, groupSize, hasZeros }: WeightFormat): string {
  const groups = groupSize === null ? 'per channel' : `in groups of ${groupSize}`;
  return `${dtype} ${groups}${hasZeros ? ' with zeros' : ''}`;
}
