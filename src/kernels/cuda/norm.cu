// rmsNorm and layerNorm of groups of columns, alone or after adding a residual (ADD). A block per row and group; a thread keeps its
// PIECES pieces of VEC elements in registers, so that the row is read once. X: the activations' type, W: the weight's, Y: what is
// written, X or (QUANTIZE) codes with a scale for the row. Statistics in float32.
#include "quantize.cuh"

struct Row {
  const X* x;
  const X* residual;  // of ADD
  X* sum;             // of ADD
  Y* y;
  const W* bias;  // may be null
  int columns;
  float* scale;                // of QUANTIZE: of the row
  const float* static_scales;  // may be null
  int num_static;
  Vec<W, VEC> weight[PIECES];
  float values[PIECES][VEC];

  /// Calls f(piece, first column) for each of this thread's pieces.
  template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
      const int i = (piece * blockDim.x + threadIdx.x) * VEC;
      if (i < columns) f(piece, i);
    }
  }

  __device__ __forceinline__ void read_weight(const W* from) {
    each([&](int piece, int i) { weight[piece] = load<VEC>(from + i); });
  }

  /// x, or x + residual as it is stored. Everything is on its way before the first sum is written, which may be in its place.
  __device__ __forceinline__ void read() {
    Vec<X, VEC> own[PIECES], others[PIECES];
    each([&](int piece, int i) {
      own[piece] = load<VEC>(x + i);
      if (ADD) others[piece] = load<VEC>(residual + i);
    });
    each([&](int piece, int i) {
      Vec<X, VEC>& at = own[piece];
#pragma unroll
      for (int j = 0; j < VEC && ADD; j++) at.at[j] = from_float<X>(to_float(at.at[j]) + to_float(others[piece].at[j]));
      if (ADD) store<VEC>(sum + i, at);
#pragma unroll
      for (int j = 0; j < VEC; j++) values[piece][j] = to_float(at.at[j]);
    });
  }

  template <typename F> __device__ __forceinline__ float total(F f) const {
    float part = 0.0f;
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < VEC; j++) part += f(values[piece][j]);
    });
    return reduce_block(part, 0.0f, Sum());
  }

  __device__ __forceinline__ X normed(int piece, int i, int j, float mean, float factor, float weight_offset) const {
    const float value = (values[piece][j] - mean) * factor * (to_float(weight[piece].at[j]) + weight_offset);
    return from_float<X>(bias ? value + to_float(bias[i + j]) : value);
  }

#if QUANTIZE
  __device__ __forceinline__ void write(float mean, float factor, float weight_offset) {
    float absmax = 0.0f;
    each([&](int piece, int i) {
#pragma unroll
      for (int j = 0; j < VEC; j++) {
        values[piece][j] = to_float(normed(piece, i, j, mean, factor, weight_offset));
        absmax = MaxMagnitude()(absmax, fabsf(values[piece][j]));
      }
    });
    const float row_scale = static_scales ? largest(static_scales, num_static)
                                          : scale_of<Y>(reduce_block(absmax, 0.0f, MaxMagnitude()));
    if (threadIdx.x == 0) *scale = row_scale;
    const Divisor divisor(row_scale);
    each([&](int piece, int i) {
      Vec<Y, VEC> result;
#pragma unroll
      for (int j = 0; j < VEC; j++) result.at[j] = encode<Y>(divisor.of(values[piece][j]));
      store<VEC>(y + i, result);
    });
  }
#else
  __device__ __forceinline__ void write(float mean, float factor, float weight_offset) const {
    each([&](int piece, int i) {
      Vec<Y, VEC> result;
#pragma unroll
      for (int j = 0; j < VEC; j++) result.at[j] = normed(piece, i, j, mean, factor, weight_offset);
      store<VEC>(y + i, result);
    });
  }
#endif
};

#define NORM_PARAMETERS                                                                                            \
  const int *num_rows, const X *x, i64 x_stride, const X *residual, i64 residual_stride, X *sum, i64 sum_stride,   \
      Y *y, i64 y_stride, float *scales, i64 scales_stride, const float *static_scales, int num_static,            \
      const W *weight, const W *bias, int group_size, int weight_groups, float eps
/// `row` of this block, read; ends blocks beyond the step's rows.
#define READ_ROW                                                                                                   \
  let_next_start();                                                                                                \
  const i64 at_row = blockIdx.x;                                                                                   \
  const int at = blockIdx.y * group_size, weight_at = weight_groups == 1 ? 0 : at, rows = *num_rows;               \
  Row row{x + at_row * x_stride + at, residual + at_row * residual_stride + at, sum + at_row * sum_stride + at,    \
          y + at_row * y_stride + at, bias ? bias + weight_at : nullptr, group_size,                               \
          scales + at_row * scales_stride, static_scales, num_static};                                             \
  row.read_weight(weight + weight_at);                                                                             \
  wait_for_previous();                                                                                             \
  if (at_row >= rows) return;                                                                                      \
  row.read()

extern "C" __global__ void __launch_bounds__(512) rms_norm(NORM_PARAMETERS, float weight_offset) {
  READ_ROW;
  const float squares = row.total([](float value) { return value * value; });
  row.write(0.0f, rsqrtf(squares / group_size + eps), weight_offset);
}

extern "C" __global__ void __launch_bounds__(512) layer_norm(NORM_PARAMETERS) {
  READ_ROW;
  const float mean = row.total([](float value) { return value; }) / group_size;
  const float squares = row.total([=](float value) { return (value - mean) * (value - mean); });
  row.write(mean, rsqrtf(squares / group_size + eps), 0.0f);
}
