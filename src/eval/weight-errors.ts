// What quantization does to the weights themselves: each layer's error, and how errors lie over a tensor's values.
import { packWeight } from '../compiler/pack-weight.ts';
import type { Plan, WeightSpec } from '../compiler/plan.ts';
import { roundTo } from '../tensor/dtype.ts';
import { fromFloat8E5M2Bits, roundToFloat8E4M3, toFloat8E5M2Bits } from '../tensor/float8.ts';
import { roundTrip } from '../tensor/quantize-rows.ts';
import type { TensorSource } from '../tensor/tensor-source.ts';
import { describeFormat, grouped, type WeightFormat } from '../tensor/weight-format.ts';
import { NeedletailError } from '../util/errors.ts';

export interface WeightError {
  readonly name: string;
  readonly shape: readonly number[];
  readonly format: string;
  /** ‖W − Ŵ‖ / ‖W‖. */
  readonly relativeError: number;
  /** The largest error of an element, as a share of the largest element. */
  readonly largestError: number;
}

/**
 * One row for each weight that the plan quantizes from floats, in the plan's order. Throws `bad_checkpoint` for weights that
 * are not finite.
 */
export function* weightErrors(plan: Plan, source: TensorSource): Generator<WeightError> {
  for (const spec of plan.weights) {
    const { name, shape, quantization } = spec;
    if (quantization?.holds !== 'codes' || quantization.origin !== 'quantize') continue;
    const { format } = quantization;
    const values = floatsOf(spec, source);
    if (!values.every(Number.isFinite)) throw notFinite(name);
    const errors = errorsOf(values, roundTrip(values, grouped(format, shape[1])));
    yield { name, shape, format: describeFormat(format), ...errors };
  }
}

function notFinite(name: string): NeedletailError {
  const message = `weight ${name} holds NaN or infinite values, which cannot be quantized`;
  return new NeedletailError('bad_checkpoint', message);
}

/** The weight as float32 `[rows, columns]`. */
export function floatsOf(spec: WeightSpec, source: TensorSource): Float32Array {
  const numElements = spec.shape.reduce((product, size) => product * size, 1);
  const asFloats = { ...spec, dtype: 'float32', layout: 'rowMajor', quantization: null } as const;
  return new Float32Array(packWeight({ ...asFloats, bytes: 4 * numElements }, source).buffer);
}

function errorsOf(
  values: Float32Array,
  quantized: Float32Array,
): Pick<WeightError, 'relativeError' | 'largestError'> {
  let [signal, noise, largestValue, largest] = [0, 0, 0, 0];
  for (let i = 0; i < values.length; i++) {
    const error = Math.abs(values[i] - quantized[i]);
    signal += values[i] ** 2;
    noise += error ** 2;
    largestValue = Math.max(largestValue, Math.abs(values[i]));
    largest = Math.max(largest, error);
  }
  const orZero = (share: number) => (Number.isNaN(share) ? 0 : share);
  return { relativeError: orZero(Math.sqrt(noise / signal)), largestError: orZero(largest / largestValue) };
}

/** Root mean square error of values of about one magnitude. */
export interface ErrorCurve {
  readonly format: string;
  readonly points: readonly { readonly magnitude: number; readonly error: number }[];
}

/** Bins per factor of ten. */
const BINS_PER_DECADE = 8;

/** How each format's error depends on the value, over a weight `[rows, columns]`: 4-bit groups as `int4` has them. */
export function errorCurves(values: Float32Array, columns: number): readonly ErrorCurve[] {
  const groupSize = columns % 128 === 0 ? 128 : columns;
  const byRows = (format: WeightFormat) => roundTrip(values, grouped(format, columns));
  const int8 = { dtype: 'int8', groupSize: null, hasZeros: false } as const;
  const float8 = { dtype: 'float8_e4m3fn', groupSize: null, hasZeros: false } as const;
  const uint4 = { dtype: 'uint4', groupSize, hasZeros: true } as const;
  return [
    {
      format: 'bfloat16',
      points: curve(
        values,
        values.map((x) => roundTo('bfloat16', x)),
      ),
    },
    {
      format: 'float8_e4m3fn, as it is',
      points: curve(
        values,
        values.map((x) => roundToFloat8E4M3(x)),
      ),
    },
    {
      format: 'float8_e5m2, as it is',
      points: curve(
        values,
        values.map((x) => fromFloat8E5M2Bits(toFloat8E5M2Bits(x))),
      ),
    },
    ...[float8, int8, uint4].map((format) => ({
      format: describeFormat(format),
      points: curve(values, byRows(format)),
    })),
  ];
}

function curve(values: Float32Array, quantized: Float32Array): ErrorCurve['points'] {
  const bins = new Map<number, { sum: number; count: number }>();
  for (let i = 0; i < values.length; i++) {
    if (values[i] === 0) continue;
    const bin = Math.floor(Math.log10(Math.abs(values[i])) * BINS_PER_DECADE);
    const { sum, count } = bins.get(bin) ?? { sum: 0, count: 0 };
    bins.set(bin, { sum: sum + (values[i] - quantized[i]) ** 2, count: count + 1 });
  }
  return [...bins]
    .sort(([a], [b]) => a - b)
    .map(([bin, { sum, count }]) => ({
      magnitude: 10 ** ((bin + 0.5) / BINS_PER_DECADE),
      error: Math.sqrt(sum / count),
    }));
}

/** The plan's weight of that name, or one whose name contains it. Throws `invalid_request` naming a few. */
export function findWeight({ weights }: Plan, name: string): WeightSpec {
  const matrices = weights.filter((spec) => spec.shape.length === 2 && spec.quantization?.holds !== 'scales');
  const found =
    matrices.find((spec) => spec.name === name) ?? matrices.find((spec) => spec.name.includes(name));
  if (found) return found;
  const some = matrices.slice(0, 4).map((spec) => spec.name);
  throw new NeedletailError(
    'invalid_request',
    `no weight is called ${name}; there are ${some.join(', ')}, …`,
    {
      param: 'weight',
    },
  );
}
