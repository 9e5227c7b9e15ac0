// Products of quantized operands for any types, shapes, groups and alignment, in float32 arithmetic: what the fast kernels do not
// take, and experts' products. X: type of x, of numbers or codes; CODES: of the weight; Y: of the output, BIAS: of the bias.
#include "dequantize.cuh"
#include "gated-sum.cuh"

constexpr int kTile = 64, kDepth = 16, kPart = 4;

template <typename Codes> __device__ __forceinline__ float code_at(const Codes* codes, i64 row_start, int column) {
  return to_float(codes[row_start + column]);
}
template <> __device__ __forceinline__ float code_at(const uint4_codes* codes, i64 row_start, int column) {
  const i64 nibble = row_start + even_odd_place(column);
  return float(codes[nibble / 2].bits >> nibble % 2 * 4 & 15);
}

/// Codes with the scales of their groups.
struct Weight {
  const CODES* codes;
  const float* scales;
  int columns, group_size, has_zeros;

  __device__ __forceinline__ float at(i64 row, int column) const {
    const i64 group = row * (columns / group_size) + column / group_size;
    const float scale = scales[has_zeros ? 2 * group : group], zero = has_zeros ? scales[2 * group + 1] : kImpliedZero<CODES>;
    return (code_at(codes, row * columns, column) - zero) * scale;
  }
};

struct Rows {
  const X* x;
  i64 x_stride;
  const float* scales;  // of codes
  i64 scales_stride;
  int group_size;

  __device__ __forceinline__ float at(int row, int column) const {
    const float value = to_float(x[row * x_stride + column]);
    return scales ? value * scales[row * scales_stride + column / group_size] : value;
  }
};

#define OPERANDS                                                                                                         \
  const int *num_rows, const X *x, i64 x_stride, const float *x_scales, i64 x_scales_stride, int x_group_size,           \
      const CODES *codes, const float *scales, int group_size, int has_zeros, const BIAS *bias, Y *y, i64 y_stride, int inputs, \
      int outputs

/// Grid [output tiles, row tiles]; a thread sums kPart × kPart products, rows and outputs 16 apart.
extern "C" __global__ void __launch_bounds__(256) quantized_tiled(OPERANDS) {
  __shared__ float x_tile[kDepth][kTile + 1], w_tile[kDepth][kTile + 1];
  const int rows = *num_rows, first_row = blockIdx.y * kTile, first_output = blockIdx.x * kTile;
  if (first_row >= rows) return;
  const Weight weight{codes, scales, inputs, group_size, has_zeros};
  const Rows from{x, x_stride, x_scales, x_scales_stride, x_group_size};
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sum[kPart][kPart] = {};
  for (int k0 = 0; k0 < inputs; k0 += kDepth) {
    for (int i = threadIdx.x; i < kTile * kDepth; i += 256) {
      const int k = i % kDepth, r = i / kDepth;
      const bool in_depth = k0 + k < inputs;
      x_tile[k][r] = in_depth && first_row + r < rows ? from.at(first_row + r, k0 + k) : 0.0f;
      w_tile[k][r] = in_depth && first_output + r < outputs ? weight.at(first_output + r, k0 + k) : 0.0f;
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

/// A warp per output; grid [tokens · slots, outputs / 8]. Without `ids` slot s takes matrix s.
extern "C" __global__ void __launch_bounds__(256)
    quantized_grouped(OPERANDS, const int* ids, i64 ids_stride, int slots, int x_columns_per_slot) {
  const i64 token = blockIdx.x / slots;
  const int slot = blockIdx.x % slots, output = blockIdx.y * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= *num_rows || output >= outputs) return;
  const Weight weight{codes, scales, inputs, group_size, has_zeros};
  const Rows from{x, x_stride, x_scales, x_scales_stride, x_group_size};
  const i64 row = i64(ids ? ids[token * ids_stride + slot] : slot) * kHalves * outputs + output;
  float sum[kHalves] = {};
  for (int k = lane; k < inputs; k += 32) {
    const float number = from.at(token, slot * x_columns_per_slot + k);
#pragma unroll
    for (int half = 0; half < kHalves; half++) sum[half] += number * weight.at(row + half * outputs, k);
  }
  const float result = gated_sum(sum, bias, row, outputs);
  if (lane == 0) y[token * y_stride + slot * outputs + output] = from_float<Y>(result);
}
