// Assembles a parameter's values from the tensors of a checkpoint: the plain counterpart of the devices' packing.
import { asMatrix } from '../tensor/shape.ts';
import type { WeightPart } from './graph.ts';

/** A checkpoint's tensor in float32, `part.tensorShape` row-major. */
export type ReadTensor = (name: string) => Float32Array;

/** The parts' rows stacked, row-major `[rows, columns]`. */
export function assembleWeight(parts: readonly WeightPart[], readTensor: ReadTensor): Float32Array {
  const sizes = parts.map((part) => part.rowCount * part.columnCount);
  const weight = new Float32Array(sizes.reduce((a, b) => a + b, 0));
  let start = 0;
  parts.forEach((part, i) => {
    copyPart(part, readTensor(part.tensor), weight.subarray(start, start + sizes[i]));
    start += sizes[i];
  });
  return weight;
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
