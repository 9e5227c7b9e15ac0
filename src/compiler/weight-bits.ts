// A weight's elements as raw bits: cut out of a checkpoint's tensors, and laid out as a kernel wants them.
import type { WeightPart } from '../ir/graph.ts';
import type { WeightLayout } from '../kernels/kernel.ts';
import { unpackNibbles } from '../tensor/codes.ts';
import { itemSize, type DType } from '../tensor/dtype.ts';
import { asMatrix } from '../tensor/shape.ts';

/** Elements as raw bits: 32 of them for float32, 16 for its halves, 8 for codes (those of `uint4` in a byte each). */
export type Bits = Uint32Array | Uint16Array | Uint8Array;

/** A row-major matrix of raw bits. */
export interface BitMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly bits: Bits;
}

export function asBits(dtype: DType, bytes: Uint8Array): Bits {
  if (dtype === 'uint4') return unpackNibbles(bytes);
  const size = itemSize(dtype);
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  if (size === 4) return new Uint32Array(buffer, byteOffset, byteLength / size);
  return size === 2
    ? new Uint16Array(buffer, byteOffset, byteLength / size)
    : new Uint8Array(buffer, byteOffset, byteLength);
}

export function sameBits(like: Bits, length: number): Bits {
  if (like instanceof Uint32Array) return new Uint32Array(length);
  return like instanceof Uint16Array ? new Uint16Array(length) : new Uint8Array(length);
}

/** The part's `[rowCount, columnCount]` elements, without a copy where they are whole rows of the tensor. */
export function cutPart(part: WeightPart, tensor: Bits): BitMatrix {
  const { rowStart, rowCount: rows, rowStep, columnStart, columnCount: columns } = part;
  const [, tensorColumns] = asMatrix(part.tensorShape);
  if (!part.transpose && columns === tensorColumns && rowStep === 1) {
    return { rows, columns, bits: tensor.subarray(rowStart * columns, (rowStart + rows) * columns) };
  }
  const bits = sameBits(tensor, rows * columns);
  if (part.transpose) {
    const source = tensor.subarray(columnStart * tensorColumns + rowStart);
    transpose({ rows, columns, bits }, source, tensorColumns, rowStep);
  } else {
    for (let row = 0; row < rows; row++) {
      const start = (rowStart + row * rowStep) * tensorColumns + columnStart;
      bits.set(tensor.subarray(start, start + columns), row * columns);
    }
  }
  return { rows, columns, bits };
}

/** `target[r, c] = source[c, r · step]`, in bands of rows so that a cache line of the source serves several of them. */
function transpose(
  { rows, columns, bits: target }: BitMatrix,
  source: Bits,
  sourceStride: number,
  step: number,
): void {
  const band = 32;
  for (let start = 0; start < rows; start += band) {
    const end = Math.min(start + band, rows);
    for (let column = 0; column < columns; column++) {
      const base = column * sourceStride;
      for (let row = start; row < end; row++) target[row * columns + column] = source[base + row * step]!;
    }
  }
}

/** Lay rows of codes out as rows `firstRow…` of a weight in `panel16words`, whose words hold `wordCodes` codes. */
export function placeWords(
  target: Bits,
  wordCodes: number,
  firstRow: number,
  { rows, columns, bits }: BitMatrix,
): void {
  const numWords = Math.ceil(columns / wordCodes);
  for (let i = 0; i < rows; i++) {
    const row = firstRow + i;
    const start = ((row >> 4) * numWords * 16 + (row & 15)) * wordCodes;
    for (let c = 0; c < columns; c++) {
      const code = c % wordCodes;
      // Of eight codes the first four are the low halves of the bytes.
      const place = wordCodes === 8 ? 2 * (code & 3) + (code >> 2) : code;
      target[start + Math.floor(c / wordCodes) * 16 * wordCodes + place] = bits[i * columns + c]!;
    }
  }
}

/** Lay the matrix's rows out as rows `firstRow…` of the weight. See `WeightLayout` for the addresses. */
export function placeRows(
  target: Bits,
  layout: WeightLayout,
  firstRow: number,
  columns: number,
  matrix: BitMatrix,
): void {
  if (layout === 'rowMajor') {
    target.set(matrix.bits, firstRow * columns);
    return;
  }
  if (layout === 'evenOdd') {
    const start = firstRow * columns;
    matrix.bits.forEach((code, i) => (target[start + evenOddPlace(i)] = code));
    return;
  }
  const paddedColumns = layout === 'panel16x2' ? columns + (columns % 2) : columns;
  for (let i = 0; i < matrix.rows; i++) {
    const row = firstRow + i;
    const panel = (row >> 4) * 16 * paddedColumns;
    const source = matrix.bits.subarray(i * columns, (i + 1) * columns);
    if (layout === 'panel16') {
      for (let c = 0, at = panel + (row & 15); c < columns; c++, at += 16) target[at] = source[c]!;
    } else {
      const start = panel + (row & 15) * 2;
      for (let c = 0, at = start; c < columns; c += 2, at += 32) target[at] = source[c]!;
      for (let c = 1, at = start + 1; c < columns; c += 2, at += 32) target[at] = source[c]!;
    }
  }
}

/** Where a column stands among its eight: even ones first. */
function evenOddPlace(column: number): number {
  const at = column & 7;
  return column - at + (at >> 1) + (at & 1) * 4;
}
