// Assembles a weight's bytes in its plan's layout out of a checkpoint's tensors: what `build` writes to weights.bin, and
// the oracle of the devices' native packing.
import type { WeightPart } from '../ir/graph.ts';
import type { WeightLayout } from '../kernels/kernel.ts';
import type { FloatDType } from '../tensor/dtype.ts';
import {
  fromBfloat16Bits,
  fromFloat16Bits,
  isFloatDType,
  itemSize,
  toBfloat16Bits,
  toFloat16Bits,
} from '../tensor/dtype.ts';
import { asMatrix, formatShape, shapesEqual } from '../tensor/shape.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';
import type { WeightSpec } from './plan.ts';

/** Elements as raw bits: 32 of them for float32, 16 for the other two. */
type Bits = Uint32Array | Uint16Array;

/** A row-major matrix of raw bits. */
interface BitMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly bits: Bits;
}

/**
 * The `spec.bytes` bytes of a weight: its parts cut out of their tensors, transposed where the checkpoint stores them
 * so, converted with round-to-nearest-even, stacked and laid out; padding is zero.
 * Throws `bad_checkpoint` if a tensor is missing or not of the shape that the plan was compiled for.
 */
export function packWeight(spec: WeightSpec, source: TensorSource): Uint8Array {
  if (!isFloatDType(spec.dtype)) throw new Error(`weight ${spec.name}: no packing of ${spec.dtype}`);
  const packed = new Uint8Array(spec.bytes);
  const target = asBits(spec.dtype, packed);
  const columns = spec.shape[1] ?? 1;
  let row = 0;
  for (const part of spec.parts) {
    const view = readChecked(part, source);
    const matrix = cutPart(part, asBits(view.dtype, view.bytes));
    const bits = convertBits(matrix.bits, view.dtype, spec.dtype);
    placeRows(target, spec.layout, row, columns, { ...matrix, bits });
    row += part.rowCount;
  }
  return packed;
}

function readChecked(part: WeightPart, source: TensorSource): TensorView {
  const view = source.read(part.tensor);
  if (shapesEqual(view.shape, part.tensorShape)) return view;
  throw new NeedletailError(
    'bad_checkpoint',
    `tensor ${part.tensor} is ${formatShape(view.shape)}, but the plan was compiled for ${formatShape(part.tensorShape)}`,
  );
}

function asBits(dtype: FloatDType, bytes: Uint8Array): Bits {
  const size = itemSize(dtype);
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  return size === 4
    ? new Uint32Array(buffer, byteOffset, byteLength / size)
    : new Uint16Array(buffer, byteOffset, byteLength / size);
}

function sameBits(like: Bits, length: number): Bits {
  return like instanceof Uint32Array ? new Uint32Array(length) : new Uint16Array(length);
}

/** The part's `[rowCount, columnCount]` elements, without a copy where they are whole rows of the tensor. */
function cutPart(part: WeightPart, tensor: Bits): BitMatrix {
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

function convertBits(bits: Bits, from: FloatDType, to: FloatDType): Bits {
  if (from === to) return bits;
  if (from === 'float32') return narrow(bits, to === 'bfloat16' ? toBfloat16Bits : toFloat16Bits);
  const table = conversionTable(from, to);
  const converted = sameBits(table, bits.length);
  for (let i = 0; i < bits.length; i++) converted[i] = table[bits[i]]!;
  return converted;
}

function narrow(bits: Bits, round: (value: number) => number): Uint16Array {
  const values = new Float32Array(bits.buffer, bits.byteOffset, bits.length);
  const converted = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) converted[i] = round(values[i]);
  return converted;
}

/** What each of the 65536 values of a 16-bit type becomes. */
function conversionTable(from: FloatDType, to: FloatDType): Bits {
  const decode = from === 'bfloat16' ? fromBfloat16Bits : fromFloat16Bits;
  const values = Float32Array.from({ length: 0x10000 }, (_, bits) => decode(bits));
  if (to === 'float32') return new Uint32Array(values.buffer);
  return Uint16Array.from(values, to === 'bfloat16' ? toBfloat16Bits : toFloat16Bits);
}

/** Lay the matrix's rows out as rows `firstRow…` of the weight. See `WeightLayout` for the addresses. */
function placeRows(
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
