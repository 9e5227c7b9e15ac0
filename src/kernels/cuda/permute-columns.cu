// permuteColumns. X: the elements' type.
#include "common.cuh"

/// y[:, i] = x[:, order[i]]; what is no column's number reads one all the same.
extern "C" __global__ void permute_columns(const int* num_rows, const X* x, i64 x_stride, const float* order, X* y,
                                           i64 y_stride, int columns) {
  const int row = blockIdx.x, i = blockIdx.y * blockDim.x + threadIdx.x;
  const int rows = *num_rows;
  let_next_start();
  wait_for_previous();
  if (row >= rows || i >= columns) return;
  const int place = min(max(int(order[i]), 0), columns - 1);
  y[row * y_stride + i] = x[row * x_stride + place];
}
