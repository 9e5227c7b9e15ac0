// Where the bytes of named tensors come from. `checkpoint/` implements it; devices only read.
import type { DType } from './dtype.ts';
import type { ActivationFormat, WeightFormat } from './weight-format.ts';

export interface TensorView {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /**
   * Row-major, little-endian; two `uint4` to a byte, the even column in its low half. May be memory that is mapped when it is first
   * asked for, valid while the source is open.
   */
  readonly bytes: Uint8Array;
  /** Where they lie if a file holds them, for whoever rather reads them there. */
  readonly file?: FileRange;
}

/** The bytes `[start, start + byteLength)` of a file. */
export interface FileRange {
  readonly path: string;
  readonly start: number;
  readonly byteLength: number;
}

export interface TensorSource {
  /** Throws a `bad_checkpoint` error naming the tensor if there is none of that name. */
  read(name: string): TensorView;
  /** Release mappings and file handles. */
  close(): void;
}

/** Weights already packed in the layouts of one plan, as a plan directory holds them. */
export interface PackedWeightSource {
  /** The bytes of the plan's weight `weightId`, as long as its `WeightSpec.bytes`. */
  readPacked(weightId: number): Uint8Array;
  /** Where these bytes lie, 64-byte aligned, for a device that maps the file instead. */
  readonly path: string;
  offsetOf(weightId: number): number;
  /** Release file handles. */
  close(): void;
}

/** A tensor without its bytes. */
export interface TensorFacts {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /**
   * Of a matrix of codes `[rows, columns]` called `A.weight`: how it was quantized. Its scales are the tensor
   * `A.weight_scale`, float32 `[rows, groups]` or with zeros `[rows, 2 · groups]`; of static activations the scale is
   * `A.input_scale`, float32 `[1]`.
   */
  readonly quantized?: QuantizedFacts;
}

export interface QuantizedFacts {
  readonly weights: WeightFormat;
  readonly activations: ActivationFormat | null;
  /**
   * The tensor, float32 `[columns]`, that says which column of its input each column of the codes meets; several weights may
   * share it. Absent: its own.
   */
  readonly inputOrder?: string;
}

/** Names, types and shapes of a checkpoint's tensors. */
export type TensorCatalog = ReadonlyMap<string, TensorFacts>;

/** What the scales of the codes called `tensor` are called. */
export function scaleTensorName(tensor: string): string {
  return `${tensor}_scale`;
}

/** What the static scale of the activations is called that the codes `tensor` are multiplied by. */
export function inputScaleTensorName(tensor: string): string {
  return `${tensor.replace(/\.weight$/, '')}.input_scale`;
}
