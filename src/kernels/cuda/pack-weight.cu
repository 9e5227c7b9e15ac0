// A part of a weight out of its tensor as the checkpoint stores it: cut, transposed, converted. SOURCE: the tensor's type, TARGET: the weight's.
#include "common.cuh"

template <typename T> struct Convert {
  template <typename S> static __device__ __forceinline__ T from(S x) { return from_float<T>(to_float(x)); }
  static __device__ __forceinline__ T from(T x) { return x; }
};

/// target[row, column] = source[row · row_step + column · column_step]; grid [row tiles, column tiles], blocks of 32 × 8.
extern "C" __global__ void pack_weight(const SOURCE* source, TARGET* target, i64 row_step, i64 column_step, int rows, int columns) {
  __shared__ TARGET tile[32][33];
  const int first_row = blockIdx.x * 32, first_column = blockIdx.y * 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Lanes follow the source's neighbours on the way in, the target's on the way out.
  const bool is_transposed = column_step != 1;
  for (int i = warp; i < 32; i += 8) {
    const int row = first_row + (is_transposed ? lane : i), column = first_column + (is_transposed ? i : lane);
    if (row < rows && column < columns)
      tile[row - first_row][column - first_column] =
          Convert<TARGET>::from(source[row * row_step + column * column_step]);
  }
  __syncthreads();
  for (int i = warp; i < 32; i += 8) {
    const int row = first_row + i, column = first_column + lane;
    if (row < rows && column < columns) target[i64(row) * columns + column] = tile[i][lane];
  }
}
