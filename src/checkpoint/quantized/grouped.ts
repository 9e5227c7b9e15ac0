// Weights in groups of columns with a scale each, and perhaps a zero, as canonical tensors.
import { scaleColumns, type WeightFormat } from '../../tensor/weight-format.ts';
import { scaleTensorName, type QuantizedFacts } from '../../tensor/tensor-source.ts';
import { inColumnOrder, type ColumnOrder } from './column-order.ts';
import { bytesOf, type AdaptedTensor, type RawTensor } from './raw-tensors.ts';

/** A weight `[rows, columns]`; `codes` are a tensor as it is, or make its bytes, `scales` what its format makes of them, row by row. */
export interface GroupedWeight {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly format: WeightFormat;
  readonly activations?: QuantizedFacts['activations'];
  /** That in which columns of a group lie beside each other, where they do not. */
  readonly order?: ColumnOrder | null;
  /** Columns as they lie. */
  readonly codes: RawTensor | (() => Uint8Array);
  scales(): Float32Array;
}

/** The codes called `name`, and their scales. */
export function canonicalTensors(weight: GroupedWeight): readonly (readonly [string, AdaptedTensor])[] {
  const { name, rows, columns, format, order = null, activations = null } = weight;
  const quantized = { weights: format, activations, ...(order && { inputOrder: order.tensor }) };
  const scalesShape = [rows, scaleColumns(format, columns)];
  return [
    [name, { facts: { dtype: format.dtype, shape: [rows, columns], quantized }, ...bytesOfCodes(weight) }],
    [
      scaleTensorName(name),
      { facts: { dtype: 'float32', shape: scalesShape }, read: () => bytesOf(weight.scales()) },
    ],
    ...(order ? [orderTensor(order)] : []),
  ];
}

function orderTensor({ tensor, columns }: ColumnOrder): readonly [string, AdaptedTensor] {
  const facts = { dtype: 'float32', shape: [columns.length] } as const;
  return [tensor, { facts, read: () => bytesOf(columns) }];
}

function bytesOfCodes({ codes, format, order = null }: GroupedWeight): Pick<AdaptedTensor, 'read' | 'file'> {
  const read = typeof codes === 'function' ? codes : codes.read;
  if (order) return { read: () => inColumnOrder(read(), format.dtype, order) };
  return typeof codes === 'function' ? { read } : { read, file: codes.file };
}

/** Scales and zeros of as many groups, in pairs. */
export function inPairs(scales: Float32Array, zeros: ArrayLike<number>): Float32Array {
  return Float32Array.from({ length: 2 * scales.length }, (_, i) =>
    i % 2 === 0 ? scales[i >> 1] : zeros[i >> 1],
  );
}
