// What the driver is told of a matrix and of the boxes of it that Hopper's copy engine moves.

export const TENSOR_MAP_BYTES = 128;
/** Values of `cuTensorMapEncodeTiled`'s enumerations. */
export const TENSOR_MAP = {
  unsigned8: 0,
  unsigned16: 1,
  plain: 0,
  swizzle128: 3,
  fillZeros: 0,
} as const;

/** Items of 1 or 2 bytes in dimensions, the innermost first, swizzled by 128 bytes. */
export interface TensorMapLayout {
  /** A multiple of 16. */
  readonly address: number;
  readonly itemBytes: number;
  readonly sizes: readonly number[];
  /** Bytes, of all dimensions but the first; multiples of 16. */
  readonly strides: readonly number[];
  readonly box: readonly number[];
}
