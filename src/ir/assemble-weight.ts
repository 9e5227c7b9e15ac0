// Assembles a parameter's values from the tensors of a checkpoint: the plain counterpart of the devices' packing.
import { quantizeRows } from '../tensor/quantize-rows.ts';
import { asMatrix } from '../tensor/shape.ts';
import { scaleColumns } from '../tensor/weight-format.ts';
import type { ParameterQuantization, WeightPart } from './graph.ts';

/** A checkpoint's tensor in float32, `part.tensorShape` row-major; of codes the numbers that they are. */
export type ReadTensor = (name: string) => Float32Array;

/** What says how a weight's values come about. */
export interface AssembledWeight {
  readonly parts: readonly WeightPart[];
  readonly quantization?: ParameterQuantization | null;
}

/** Columns that a part yields: where scales are made of its floats, fewer than it cuts. */
export function columnsFrom(part: WeightPart, quantization: ParameterQuantization | null = null): number {
  const makesScales = quantization?.holds === 'scales' && quantization.origin === 'quantize';
  return makesScales ? scaleColumns(quantization.format, part.columnCount) : part.columnCount;
}

/** The weight's numbers, row-major: floats, codes as the numbers that they are, or scales. */
export function assembleWeight(
  { parts, quantization = null }: AssembledWeight,
  readTensor: ReadTensor,
): Float32Array {
  const stacked = stackParts(parts, readTensor);
  if (quantization?.origin !== 'quantize') return stacked;
  const { format, holds } = quantization;
  const groupSize = format.groupSize ?? parts[0].columnCount;
  const { codes, scales } = quantizeRows(stacked, { ...format, groupSize });
  return holds === 'codes' ? codes : scales;
}

/** The parts' rows, one part after the other. */
function stackParts(parts: readonly WeightPart[], readTensor: ReadTensor): Float32Array {
  const sizes = parts.map((part) => part.rowCount * part.columnCount);
  const stacked = new Float32Array(sizes.reduce((a, b) => a + b, 0));
  let start = 0;
  parts.forEach((part, i) => {
    copyPart(part, readTensor(part.tensor), stacked.subarray(start, start + sizes[i]));
    start += sizes[i];
  });
  return stacked;
}

function copyPart(part: WeightPart, tensor: Float32Array, target: Float32Array): void {
  const { rowStart, rowCount, rowStep, columnStart, columnCount, transpose } = part;
  const [, stride] = asMatrix(part.tensorShape);
  for (let row = 0; row < rowCount; row++) {
    const tensorRow = rowStart + row * rowStep;
    const start = tensorRow * stride + columnStart;
    if (!transpose) target.set(tensor.subarray(start, start + columnCount), row * columnCount);
    else copyColumn(tensor, columnStart * stride + tensorRow, stride, target, row * columnCount, columnCount);
  }
}

function copyColumn(
  tensor: Float32Array,
  start: number,
  stride: number,
  target: Float32Array,
  targetStart: number,
  length: number,
): void {
  for (let i = 0; i < length; i++) target[targetStart + i] = tensor[start + i * stride];
}
