// Assembles a weight's bytes in its plan's layout out of a checkpoint's tensors: what `build` writes to weights.bin, and
// the oracle of the devices' native packing.
import type { ParameterQuantization, WeightPart } from '../ir/graph.ts';
import { encodeCodes, packNibbles } from '../tensor/codes.ts';
import { isFloatDType, type CodeDType, type FloatDType } from '../tensor/dtype.ts';
import { findBadScale, quantizeRows } from '../tensor/quantize-rows.ts';
import { formatShape, shapesEqual } from '../tensor/shape.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { grouped, scaleColumns } from '../tensor/weight-format.ts';
import { NeedletailError } from '../util/errors.ts';
import { FloatConversion } from './float-conversion.ts';
import type { WeightSpec } from './plan.ts';
import { asBits, cutPart, placeRows, placeWords, type BitMatrix, type Bits } from './weight-bits.ts';

/** A single weight, as `WeightPacker` packs it. */
export function packWeight(spec: WeightSpec, source: TensorSource): Uint8Array {
  return new WeightPacker(source).pack(spec);
}

/** Packs the weights of a source. Those that are codes are quantized once if their scales come next, as in a plan. */
export class WeightPacker {
  readonly #source: TensorSource;
  readonly #conversion = new FloatConversion();
  /** The weight that was quantized last. */
  #quantized: { readonly key: string; readonly parts: readonly QuantizedPart[] } | null = null;

  constructor(source: TensorSource) {
    this.#source = source;
  }

  /**
   * The `spec.bytes` bytes of a weight: its parts cut out of their tensors, transposed where the checkpoint stores them
   * so, converted with round-to-nearest-even or quantized, stacked and laid out; padding is zero.
   * Throws `bad_checkpoint` if a tensor is missing, not what the plan was compiled for, or holds what has no finite scale.
   */
  pack(spec: WeightSpec): Uint8Array {
    const packed = new Uint8Array(spec.bytes);
    const isNibbles = spec.dtype === 'uint4';
    const target = isNibbles ? new Uint8Array(2 * spec.bytes) : asBits(spec.dtype, packed);
    const columns = spec.shape[1] ?? 1;
    let row = 0;
    for (const matrix of this.#readParts(spec)) {
      if (spec.layout === 'panel16words') placeWords(target, isNibbles ? 8 : 4, row, matrix);
      else placeRows(target, spec.layout, row, columns, matrix);
      row += matrix.rows;
    }
    return isNibbles ? packNibbles(target as Uint8Array) : packed;
  }

  /** The rows of each part as the weight stores them. */
  #readParts(spec: WeightSpec): readonly BitMatrix[] {
    const { parts, quantization } = spec;
    if (quantization?.origin !== 'quantize') return parts.map((part) => this.#readPart(part, spec));
    const isScales = quantization.holds === 'scales';
    return this.#quantize(spec, quantization).map(({ codes, scales }) => (isScales ? scales : codes));
  }

  #readPart(part: WeightPart, spec: WeightSpec): BitMatrix {
    const { dtype, quantization } = spec;
    const view = readChecked(part, spec, this.#source);
    const matrix = cutPart(part, asBits(view.dtype, view.bytes));
    if (!isFloatDType(dtype) || !isFloatDType(view.dtype)) return matrix;
    const bits = this.#conversion.convert(matrix.bits, view.dtype, dtype);
    if (quantization) checkScales(part, quantization, floatsOf(bits));
    return { ...matrix, bits };
  }

  #quantize(spec: WeightSpec, quantization: ParameterQuantization): readonly QuantizedPart[] {
    const { parts } = spec;
    const key = JSON.stringify([parts, quantization.format]);
    if (this.#quantized?.key === key) return this.#quantized.parts;
    this.#quantized = null;
    const quantized = parts.map((part) => this.#quantizePart(part, spec, quantization));
    this.#quantized = { key, parts: quantized };
    return quantized;
  }

  #quantizePart(part: WeightPart, spec: WeightSpec, quantization: ParameterQuantization): QuantizedPart {
    const { format } = quantization;
    const view = readChecked(part, spec, this.#source);
    const { rows, columns, bits } = cutPart(part, asBits(view.dtype, view.bytes));
    const values = floatsOf(this.#conversion.convert(bits, view.dtype as FloatDType, 'float32'));
    const { codes, scales } = quantizeRows(values, grouped(format, columns));
    checkScales(part, quantization, scales);
    const scaleBits = asBits('float32', new Uint8Array(scales.buffer));
    return {
      codes: { rows, columns, bits: codeBits(format.dtype, codes) },
      scales: { rows, columns: scaleColumns(format, columns), bits: scaleBits },
    };
  }
}

interface QuantizedPart {
  readonly codes: BitMatrix;
  readonly scales: BitMatrix;
}

/** Bits of float32 as what they mean. */
function floatsOf({ buffer, byteOffset, length }: Bits): Float32Array {
  return new Float32Array(buffer, byteOffset, length);
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
  if (holds === 'inputOrder') return;
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
