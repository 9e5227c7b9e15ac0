// Where the bytes of named tensors come from. `checkpoint/` implements it; devices only read.
import type { FloatDType } from './dtype.ts';

export interface TensorView {
  readonly dtype: FloatDType;
  readonly shape: readonly number[];
  /** Row-major, little-endian. May be mapped memory: valid while the source is open. */
  readonly bytes: Uint8Array;
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

/** Names, types and shapes of a checkpoint's tensors, without their bytes. */
export type TensorCatalog = ReadonlyMap<
  string,
  { readonly dtype: FloatDType; readonly shape: readonly number[] }
>;
