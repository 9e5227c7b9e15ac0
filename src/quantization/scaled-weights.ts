// A checkpoint's weights with factors multiplied into their rows and columns, and where they are written back.
import { assembleWeight } from '../ir/assemble-weight.ts';
import type { Parameter, WeightPart } from '../ir/graph.ts';
import { decodeTensor } from '../tensor/codes.ts';
import { encodeFloats, isFloatDType, roundTo, type FloatDType } from '../tensor/dtype.ts';
import { asMatrix } from '../tensor/shape.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';
import { columnsOf } from './products.ts';
import type { ScalingGroup } from './scaling-groups.ts';

export class ScaledWeights {
  readonly #source: TensorSource;
  readonly #rowFactors = new Map<Parameter, Float64Array>();
  readonly #columnFactors = new Map<Parameter, Float64Array>();
  /** Norm weights that took factors, as they are stored. */
  readonly #norms = new Map<Parameter, Float32Array>();
  #lastRead: { readonly name: string; readonly values: Float32Array } | null = null;

  constructor(source: TensorSource) {
    this.#source = source;
  }

  /** The weight's values, row-major, factors included. Throws `bad_checkpoint` for NaN or infinite ones. */
  read(parameter: Parameter): Float32Array {
    const changed = this.#norms.get(parameter);
    if (changed) return changed;
    const values = assembleWeight({ parts: parameter.parts }, (name) => this.#readTensor(name));
    if (!areFinite(values)) throw notFinite(parameter);
    const [rows, columns] = [this.#rowFactors.get(parameter), this.#columnFactors.get(parameter)];
    const width = values.length / (parameter.value.type.shape[0] as number);
    if (!rows && !columns) return values;
    for (let start = 0, row = 0; start < values.length; start += width, row++) {
      const ofRow = rows?.[row] ?? 1;
      for (let i = 0; i < width; i++) values[start + i] *= ofRow * (columns?.[i] ?? 1);
    }
    return values;
  }

  /** Divides the group's value by `factors` `[numFactors]` at its source, and multiplies the columns of what reads it. */
  fold({ source, products, kept, factorOf, numFactors }: ScalingGroup, factors: Float64Array): void {
    const { weight, bias, normOffset } = source;
    const taken = normOffset === null ? factors : this.#foldIntoNorm(weight, normOffset, factors);
    const inverse = (i: number): number => 1 / taken[i % numFactors];
    if (normOffset === null) this.#scale(this.#rowFactors, weight, inverse);
    if (bias) this.#scale(this.#rowFactors, bias, inverse);
    for (const reader of [...products.map((product) => product.weight), ...kept]) {
      this.#scale(this.#columnFactors, reader, (column) => taken[factorOf[column]]);
    }
  }

  /** The changed weights, but for `quantized` ones, as whole tensors of the type that they had, made whenever they are read. */
  changedTensors(quantized: ReadonlySet<Parameter>): ReadonlyMap<string, () => TensorView> {
    const changed = new Set([
      ...this.#norms.keys(),
      ...this.#rowFactors.keys(),
      ...this.#columnFactors.keys(),
    ]);
    const users = new Map<string, Set<Parameter>>();
    for (const parameter of changed) {
      if (quantized.has(parameter)) continue;
      for (const { tensor } of parameter.parts) {
        users.set(tensor, (users.get(tensor) ?? new Set()).add(parameter));
      }
    }
    return new Map(
      [...users].map(([name, parameters]) => [name, () => this.#changedTensor(name, parameters)]),
    );
  }

  #changedTensor(name: string, changed: ReadonlySet<Parameter>): TensorView {
    const view = this.#source.read(name);
    const values = decodeTensor(view);
    for (const parameter of changed) this.#writeParts(parameter, name, values);
    const dtype = this.#dtypeOf(name);
    return { dtype, shape: view.shape, bytes: encodeFloats(dtype, values) };
  }

  /**
   * The norm's weight as it survives in its type; the factors taken are those that it was really divided by, so that
   * rounding it costs nothing.
   */
  #foldIntoNorm(weight: Parameter, offset: number, factors: Float64Array): Float64Array {
    const dtype = this.#dtypeOf(weight.parts[0].tensor);
    const old = this.read(weight);
    const taken = new Float64Array(factors.length).fill(1);
    const folded = old.map((value, i) => {
      const stored = roundTo(dtype, (value + offset) / factors[i] - offset);
      const ratio = (value + offset) / (stored + offset);
      if (!(Number.isFinite(ratio) && ratio > 0)) return value;
      taken[i] = ratio;
      return stored;
    });
    this.#norms.set(weight, folded);
    return taken;
  }

  #scale(factors: Map<Parameter, Float64Array>, parameter: Parameter, factorAt: (i: number) => number): void {
    const isRows = factors === this.#rowFactors;
    const size = isRows ? (parameter.value.type.shape[0] as number) : columnsOf(parameter);
    const before = factors.get(parameter) ?? new Float64Array(size).fill(1);
    factors.set(
      parameter,
      before.map((factor, i) => factor * factorAt(i)),
    );
  }

  /** Writes what the parameter cuts from tensor `name` back to where it stands. */
  #writeParts(parameter: Parameter, name: string, tensor: Float32Array): void {
    const values = this.read(parameter);
    let start = 0;
    for (const part of parameter.parts) {
      const size = part.rowCount * part.columnCount;
      if (part.tensor === name) writePart(part, values.subarray(start, start + size), tensor);
      start += size;
    }
  }

  #readTensor(name: string): Float32Array {
    if (this.#lastRead?.name !== name) {
      this.#lastRead = { name, values: decodeTensor(this.#source.read(name)) };
    }
    return this.#lastRead.values;
  }

  #dtypeOf(tensor: string): FloatDType {
    const { dtype } = this.#source.read(tensor);
    if (isFloatDType(dtype)) return dtype;
    throw new NeedletailError('bad_checkpoint', `tensor ${tensor} is ${dtype}: only floats are calibrated`);
  }
}

function writePart(part: WeightPart, values: Float32Array, tensor: Float32Array): void {
  const { rowStart, rowCount, rowStep, columnStart, columnCount, transpose } = part;
  const [, stride] = asMatrix(part.tensorShape);
  for (let row = 0; row < rowCount; row++) {
    const tensorRow = rowStart + row * rowStep;
    for (let column = 0; column < columnCount; column++) {
      const [a, b] = transpose ? [columnStart + column, tensorRow] : [tensorRow, columnStart + column];
      tensor[a * stride + b] = values[row * columnCount + column];
    }
  }
}

/** Many times as fast as `every`. */
function areFinite(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) return false;
  }
  return true;
}

function notFinite({ name }: Parameter): NeedletailError {
  return new NeedletailError(
    'bad_checkpoint',
    `weight ${name} holds NaN or infinite values, which cannot be quantized`,
  );
}
