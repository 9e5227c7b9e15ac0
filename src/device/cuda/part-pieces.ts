// Cuts a part of a weight into pieces whose rows of the tensor fit where they wait to be packed.
import type { WeightPart } from '../../ir/graph.ts';

/** So many rows of 4-bit codes fill whole words, whatever their length. */
const ROW_MULTIPLE = 16;

/** Of a tensor whose rows take `rowBytes`. A transposed part stays whole: what makes one row of it lies all over the tensor. */
export function inPieces(part: WeightPart, rowBytes: number, maxBytes: number): readonly WeightPart[] {
  const { rowStart, rowCount, rowStep, transpose } = part;
  if (transpose) return [part];
  const maxRows = Math.max(1, Math.floor(maxBytes / (rowBytes * rowStep * ROW_MULTIPLE))) * ROW_MULTIPLE;
  return Array.from({ length: Math.ceil(rowCount / maxRows) }, (_, i) => ({
    ...part,
    rowStart: rowStart + i * maxRows * rowStep,
    rowCount: Math.min(maxRows, rowCount - i * maxRows),
  }));
}

/** Of the tensor as a matrix, the rows [start, end) that the part is cut from. */
export function tensorRows(part: WeightPart): readonly [start: number, end: number] {
  const { rowStart, rowCount, rowStep, columnStart, columnCount, transpose } = part;
  return transpose
    ? [columnStart, columnStart + columnCount]
    : [rowStart, rowStart + (rowCount - 1) * rowStep + 1];
}
