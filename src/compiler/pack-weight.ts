// Assembles a weight's bytes in its plan's layout out of a checkpoint's tensors: what `build` writes to weights.bin, and
// the oracle of the devices' native packing.
import type { ParameterQuantization, WeightPart } from '../ir/graph.ts';
import type { WeightLayout } from '../kernels/kernel.ts';
import { encodeCodes, packNibbles, unpackNibbles } from '../tensor/codes.ts';
import type { CodeDType, DType, FloatDType } from '../tensor/dtype.ts';
import {
  fromBfloat16Bits,
  fromFloat16Bits,
  isFloatDType,
  itemSize,
  toBfloat16Bits,
  toFloat16Bits,
} from '../tensor/dtype.ts';
import { findBadScale, quantizeRows } from '../tensor/quantize-rows.ts';
import { asMatrix, formatShape, shapesEqual } from '../tensor/shape.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { scaleColumns } from '../tensor/weight-format.ts';
import { NeedletailError } from '../util/errors.ts';
import type { WeightSpec } from './plan.ts';

/** Elements as raw bits: 32 of them for float32, 16 for its halves, 8 for codes (those of `uint4` in a byte each). */
type Bits = Uint32Array | Uint16Array | Uint8Array;

/** A row-major matrix of raw bits. */
interface BitMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly bits: Bits;
}

/**
 * The `spec.bytes` bytes of a weight: its parts cut out of their tensors, transposed where the checkpoint stores them
 * so, converted with round-to-nearest-even or quantized, stacked and laid out; padding is zero.
 * Throws `bad_checkpoint` if a tensor is missing, not what the plan was compiled for, or holds what has no finite scale.
 */
export function packWeight(spec: WeightSpec, source: TensorSource): Uint8Array {
  const packed = new Uint8Array(spec.bytes);
  const isNibbles = spec.dtype === 'uint4';
  const target = isNibbles ? new Uint8Array(2 * spec.bytes) : asBits(spec.dtype, packed);
  const columns = spec.shape[1] ?? 1;
  let row = 0;
  for (const part of spec.parts) {
    const matrix = readPart(part, spec, source);
    if (spec.layout === 'panel16words') placeWords(target, isNibbles ? 8 : 4, row, matrix);
    else placeRows(target, spec.layout, row, columns, matrix);
    row += part.rowCount;
  }
  return isNibbles ? packNibbles(target as Uint8Array) : packed;
}

/** The part's rows as the weight stores them. */
function readPart(part: WeightPart, spec: WeightSpec, source: TensorSource): BitMatrix {
  const { dtype, quantization } = spec;
  const view = readChecked(part, spec, source);
  const matrix = cutPart(part, asBits(view.dtype, view.bytes));
  if (quantization?.origin === 'quantize') return quantizePart(part, quantization, matrix, view.dtype);
  if (!isFloatDType(dtype) || !isFloatDType(view.dtype)) return matrix;
  const bits = convertBits(matrix.bits, view.dtype, dtype);
  if (quantization)
    checkScales(part, quantization, new Float32Array(bits.buffer, bits.byteOffset, bits.length));
  return { ...matrix, bits };
}

function quantizePart(
  part: WeightPart,
  quantization: ParameterQuantization,
  { rows, columns, bits }: BitMatrix,
  from: DType,
): BitMatrix {
  const { format, holds } = quantization;
  const floats = convertBits(bits, from as FloatDType, 'float32');
  const values = new Float32Array(floats.buffer, floats.byteOffset, floats.length);
  const { codes, scales } = quantizeRows(values, { ...format, groupSize: format.groupSize ?? columns });
  checkScales(part, quantization, scales);
  if (holds === 'codes') return { rows, columns, bits: codeBits(format.dtype, codes) };
  return {
    rows,
    columns: scaleColumns(format, columns),
    bits: asBits('float32', new Uint8Array(scales.buffer)),
  };
}

function codeBits(dtype: CodeDType, codes: Float32Array): Uint8Array {
  return dtype === 'uint4' ? Uint8Array.from(codes) : encodeCodes(dtype, codes);
}

function checkScales(
  { tensor }: WeightPart,
  quantization: ParameterQuantization,
  scales: Float32Array,
): void {
  const { format, holds, origin } = quantization;
  const bad = findBadScale(scales, holds !== 'inputScales' && format.hasZeros);
  if (bad === null) return;
  const problem =
    origin === 'quantize'
      ? 'holds NaN or infinite values, which cannot be quantized'
      : `holds a scale of ${bad}; the checkpoint is damaged, or was never calibrated`;
  throw new NeedletailError('bad_checkpoint', `tensor ${tensor} ${problem}`);
}

function readChecked(
  part: WeightPart,
  { dtype, quantization }: WeightSpec,
  source: TensorSource,
): TensorView {
  const view = source.read(part.tensor);
  const wantsFloats = isFloatDType(dtype) || quantization?.origin === 'quantize';
  const isRight = wantsFloats ? isFloatDType(view.dtype) : view.dtype === dtype;
  if (!isRight) refuse(part, view.dtype, wantsFloats ? 'floats' : dtype);
  if (!shapesEqual(view.shape, part.tensorShape))
    refuse(part, formatShape(view.shape), formatShape(part.tensorShape));
  return view;
}

function refuse({ tensor }: WeightPart, found: string, planned: string): never {
  const problem = `tensor ${tensor} is ${found}, but the plan was compiled for ${planned}`;
  throw new NeedletailError('bad_checkpoint', problem);
}

function asBits(dtype: DType, bytes: Uint8Array): Bits {
  if (dtype === 'uint4') return unpackNibbles(bytes);
  const size = itemSize(dtype);
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  if (size === 4) return new Uint32Array(buffer, byteOffset, byteLength / size);
  return size === 2
    ? new Uint16Array(buffer, byteOffset, byteLength / size)
    : new Uint8Array(buffer, byteOffset, byteLength);
}

function sameBits(like: Bits, length: number): Bits {
  if (like instanceof Uint32Array) return new Uint32Array(length);
  return like instanceof Uint16Array ? new Uint16Array(length) : new Uint8Array(length);
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

/** Lay rows of codes out as rows `firstRow…` of a weight in `panel16words`, whose words hold `wordCodes` codes. */
function placeWords(
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
