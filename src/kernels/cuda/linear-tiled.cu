// linear for any types, shapes and alignment, in float32 arithmetic: what the fast kernels and cuBLASLt do not take.
// X, W, Y: types of x, weight (and bias), output.
#include "common.cuh"

constexpr int kTile = 64, kDepth = 16, kPart = 4;

/// Grid [output tiles, row tiles]; a thread sums kPart × kPart products, rows and outputs 16 apart.
extern "C" __global__ void __launch_bounds__(256)
    linear_tiled(const int* num_rows, const X* x, i64 x_stride, const W* weight, const W* bias, Y* y, i64 y_stride,
                 int inputs, int outputs) {
  __shared__ float x_tile[kDepth][kTile + 1], w_tile[kDepth][kTile + 1];
  const int rows = *num_rows, first_row = blockIdx.y * kTile, first_output = blockIdx.x * kTile;
  if (first_row >= rows) return;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sum[kPart][kPart] = {};
  for (int k0 = 0; k0 < inputs; k0 += kDepth) {
    for (int i = threadIdx.x; i < kTile * kDepth; i += 256) {
      const int k = i % kDepth, r = i / kDepth;
      const bool in_depth = k0 + k < inputs;
      x_tile[k][r] = in_depth && first_row + r < rows ? to_float(x[(first_row + r) * x_stride + k0 + k]) : 0.0f;
      w_tile[k][r] =
          in_depth && first_output + r < outputs ? to_float(weight[i64(first_output + r) * inputs + k0 + k]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; k++)
#pragma unroll
      for (int i = 0; i < kPart; i++)
#pragma unroll
        for (int j = 0; j < kPart; j++) sum[i][j] += x_tile[k][ty + 16 * i] * w_tile[k][tx + 16 * j];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPart; i++)
#pragma unroll
    for (int j = 0; j < kPart; j++) {
      const int row = first_row + ty + 16 * i, output = first_output + tx + 16 * j;
      if (row >= rows || output >= outputs) continue;
      y[row * y_stride + output] = from_float<Y>(sum[i][j] + (bias ? to_float(bias[output]) : 0.0f));
    }
}
