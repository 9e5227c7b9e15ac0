// Weights whose 8-bit codes are published as they are, `[rows, columns]`, with a scale for the whole, each row, or each block.
import type { CodeDType } from '../../tensor/dtype.ts';
import { inputScaleTensorName, type TensorFacts } from '../../tensor/tensor-source.ts';
import { canonicalTensors } from './grouped.ts';
import {
  badTensor,
  bytesOf,
  FLOATS,
  readScales,
  type AdaptedTensor,
  type RawTensor,
  type RawTensors,
} from './raw-tensors.ts';
import { numGroups } from './settings.ts';

type Activations = NonNullable<TensorFacts['quantized']>['activations'];

/** What one scale is for; of a block its `[rows, columns]`. */
export type ScaleOf = 'tensor' | 'row' | readonly [number, number];

export interface RowCodes {
  readonly scaleOf: ScaleOf;
  /** What the scales' tensor is called, after the layer's name. */
  readonly scaleSuffix: string;
  readonly activations: Activations;
}

const CODE_TYPES: Readonly<Record<string, CodeDType>> = { F8_E4M3: 'float8_e4m3fn', I8: 'int8' };

/** Layers whose `weight` is of a type that safetensors calls `dtype`. */
export function layersOf(raw: RawTensors, dtype: string): readonly string[] {
  const names = raw.names.filter((name) => name.endsWith('.weight') && raw.dtypeOf(name) === dtype);
  return names.map((name) => name.slice(0, -'.weight'.length));
}

export function adaptRowCodes(
  layer: string,
  { scaleOf, scaleSuffix, activations }: RowCodes,
  raw: RawTensors,
): readonly (readonly [string, AdaptedTensor])[] {
  const name = `${layer}.weight`;
  const [rows, columns] = raw.matrixShape(name);
  const codes = raw.claim(name, Object.keys(CODE_TYPES), [rows, columns]);
  const scales = claimScales(`${layer}${scaleSuffix}`, scaleOf, rows, columns, raw);
  const groupSize = typeof scaleOf === 'string' ? null : scaleOf[1];
  const weight = canonicalTensors({
    name,
    rows,
    columns,
    format: { dtype: CODE_TYPES[codes.dtype], groupSize, hasZeros: false },
    activations,
    codes,
    scales: () => scalesOfRows(readScales(scales), scaleOf, rows, columns),
  });
  return activations?.isStatic ? [...weight, inputScale(name, raw)] : weight;
}

function claimScales(
  name: string,
  scaleOf: ScaleOf,
  rows: number,
  columns: number,
  raw: RawTensors,
): RawTensor {
  if (scaleOf === 'tensor') return raw.claimScalar(name);
  if (scaleOf === 'row') return raw.claim(name, FLOATS, raw.rankOf(name) === 1 ? [rows] : [rows, 1]);
  const [blockRows, blockColumns] = scaleOf;
  return raw.claim(name, FLOATS, [Math.ceil(rows / blockRows), numGroups(name, columns, blockColumns)]);
}

/** `[rows, groups]`: each row has those of its block. */
function scalesOfRows(scales: Float32Array, scaleOf: ScaleOf, rows: number, columns: number): Float32Array {
  if (scaleOf === 'row') return scales;
  const [blockRows, blockColumns] = scaleOf === 'tensor' ? [rows, columns] : scaleOf;
  const groups = columns / blockColumns;
  return Float32Array.from({ length: rows * groups }, (_, i) => {
    const [row, group] = [Math.floor(i / groups), i % groups];
    return scales[Math.floor(row / blockRows) * groups + group];
  });
}

/** The calibrated scale of what the codes `weight` are multiplied by. */
function inputScale(weight: string, raw: RawTensors): readonly [string, AdaptedTensor] {
  const name = inputScaleTensorName(weight);
  const tensor = raw.claimScalar(name);
  const read = (): Uint8Array => {
    const scales = readScales(tensor);
    if (scales[0] < 0) throw badTensor(name, `holds a scale of ${scales[0]}`);
    return bytesOf(scales);
  };
  return [name, { facts: { dtype: 'float32', shape: [1] }, read }];
}
