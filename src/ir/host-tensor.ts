// Tensors in this process's memory, as the interpreter computes on them: contiguous, row-major, float32 or int32.

export interface HostTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** The value of a `token`: it orders effects and holds nothing. */
export const TOKEN: HostTensor = { shape: [], data: new Float32Array(0) };

export function floatTensor(
  shape: readonly number[],
  data?: Float32Array,
): HostTensor & { data: Float32Array } {
  return { shape, data: data ?? new Float32Array(shape.reduce((a, b) => a * b, 1)) };
}

/** The elements of a tensor known to hold floats. */
export function floatsOf(tensor: HostTensor): Float32Array {
  return tensor.data as Float32Array;
}

/** The elements of a tensor known to hold integers. */
export function intsOf(tensor: HostTensor): Int32Array {
  return tensor.data as Int32Array;
}
