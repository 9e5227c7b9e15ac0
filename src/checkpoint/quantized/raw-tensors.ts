// The tensors of a quantized checkpoint as its files hold them, claimed one by one, so that none is left unexplained.
import { decodeFloats, isFloatDType } from '../../tensor/dtype.ts';
import { formatShape, shapesEqual } from '../../tensor/shape.ts';
import type { FileRange, TensorFacts } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { SafetensorsTensor } from '../safetensors-header.ts';
import { floatDTypeOf, rangeOf, type SafetensorsSource, type TensorPlace } from '../safetensors.ts';

/** A tensor of the catalog that is made of others when it is read. */
export interface AdaptedTensor {
  readonly facts: TensorFacts;
  /** As `TensorView.bytes`. */
  readonly read: () => Uint8Array;
  /** Where they lie if it is another tensor as it is. */
  readonly file?: FileRange;
}

/** By canonical name. */
export type AdaptedTensors = ReadonlyMap<string, AdaptedTensor>;

/** A tensor whose type and shape are known to be right. */
export interface RawTensor {
  readonly name: string;
  /** As safetensors spells it. */
  readonly dtype: string;
  readonly file: FileRange;
  readonly read: () => Uint8Array;
}

export const FLOATS: readonly string[] = ['F32', 'F16', 'BF16'];
/** What one number of a whole tensor may be stored as. */
const SCALAR_SHAPES: readonly (readonly number[])[] = [[], [1]];

export class RawTensors {
  readonly #places: ReadonlyMap<string, TensorPlace>;
  readonly #source: SafetensorsSource;
  readonly #claimed = new Set<string>();

  constructor(places: ReadonlyMap<string, TensorPlace>, source: SafetensorsSource) {
    this.#places = places;
    this.#source = source;
  }

  get names(): readonly string[] {
    return [...this.#places.keys()];
  }

  has(name: string): boolean {
    return this.#places.has(name);
  }

  dtypeOf(name: string): string | null {
    return this.#places.get(name)?.tensor.dtype ?? null;
  }

  rankOf(name: string): number {
    return this.#get(name).shape.length;
  }

  /** The shape of a tensor that must be a matrix. */
  matrixShape(name: string): readonly [number, number] {
    const { shape } = this.#get(name);
    if (shape.length === 2 && shape.every((size) => size > 0)) return shape as unknown as [number, number];
    throw badTensor(name, `is ${formatShape(shape)}, but must be a matrix`);
  }

  /** Throws `bad_checkpoint` if there is none, or none of these types and this shape. */
  claim(name: string, dtypes: readonly string[], shape: readonly number[]): RawTensor {
    return this.#claim(name, dtypes, [shape]);
  }

  claimScalar(name: string, dtypes: readonly string[] = FLOATS): RawTensor {
    return this.#claim(name, dtypes, SCALAR_SHAPES);
  }

  /** Names that no adapter asked for. */
  get unclaimed(): readonly string[] {
    return this.names.filter((name) => !this.#claimed.has(name));
  }

  /** Of a tensor of floats. */
  factsOf(name: string): TensorFacts | null {
    const tensor = this.#get(name);
    const dtype = floatDTypeOf(tensor);
    return dtype && { dtype, shape: tensor.shape };
  }

  #claim(name: string, dtypes: readonly string[], shapes: readonly (readonly number[])[]): RawTensor {
    const place = this.#place(name);
    const { dtype, shape } = place.tensor;
    if (!dtypes.includes(dtype) || !shapes.some((expected) => shapesEqual(shape, expected))) {
      const wanted = `${dtypes.join(' or ')} ${shapes.map(formatShape).join(' or ')}`;
      throw badTensor(name, `is ${dtype} ${formatShape(shape)}, but must be ${wanted}`);
    }
    this.#claimed.add(name);
    return { name, dtype, file: rangeOf(place), read: () => this.#source.readBytes(name) };
  }

  #get(name: string): SafetensorsTensor {
    return this.#place(name).tensor;
  }

  #place(name: string): TensorPlace {
    const place = this.#places.get(name);
    if (place) return place;
    throw badTensor(name, 'is missing, without which the codes beside it mean nothing');
  }
}

/** Reads floats that codes are multiplied by. Throws `bad_checkpoint` where one is 0, NaN or infinite. */
export function readScales(tensor: RawTensor): Float32Array {
  const { name } = tensor;
  const scales = readFloats(tensor);
  const bad = scales.find((scale) => !Number.isFinite(scale) || scale === 0);
  if (bad === undefined) return scales;
  throw badTensor(name, `holds a scale of ${bad}: it is damaged, or was never calibrated`);
}

export function readFloats({ dtype, read }: RawTensor): Float32Array {
  const type = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }[dtype]!;
  if (!isFloatDType(type)) throw new Error(`no floats are read from ${dtype}`);
  return decodeFloats(type, read());
}

/** The 32-bit words of an I32 tensor. */
export function readWords({ read }: RawTensor): Uint32Array {
  const bytes = read();
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Uint32Array(buffer, byteOffset, byteLength / 4);
}

export function bytesOf({ buffer, byteOffset, byteLength }: NodeJS.TypedArray): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

export function badTensor(name: string, problem: string): NeedletailError {
  return new NeedletailError(
    'bad_checkpoint',
    `tensor ${name} ${problem}; fetch the checkpoint again, or quantize the model anew`,
  );
}
