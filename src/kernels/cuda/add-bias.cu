// Adds a bias to the rows of a product, where cuBLASLt does not: output and bias are of different types.
#include "common.cuh"

extern "C" __global__ void add_bias(const int* num_rows, Y* y, i64 y_stride, const W* bias, int columns) {
  const int row = blockIdx.x, i = blockIdx.y * blockDim.x + threadIdx.x;
  if (row >= *num_rows || i >= columns) return;
  y[row * y_stride + i] = from_float<Y>(to_float(y[row * y_stride + i]) + to_float(bias[i]));
}
