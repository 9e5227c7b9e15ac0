// rmsNorm and layerNorm of groups of columns, alone or after adding a residual (ADD). A block of THREADS takes row after row of a
// group, the next of which is on its way meanwhile; a thread keeps its PIECES pieces of VEC elements in registers, so that a row is
// read once. X: the activations' type, W: the weight's, Y: what is written, X or (QUANTIZE) codes with a scale for the row. Statistics
// in float32.
#include "quantize.cuh"

struct Rows {
  const X* x;
  i64 x_stride;
  const X* residual;  // of ADD
  i64 residual_stride;
  X* sum;  // of ADD
  i64 sum_stride;
  Y* y;
  i64 y_stride;
  const W* bias;  // may be null
  int columns;
  float* scales;  // of QUANTIZE: of the rows
  i64 scales_stride;
  const float* static_scales;  // may be null
  int num_static;
  Packed<W, VEC> weight[PIECES];
  Packed<X, VEC> own[PIECES], others[PIECES];  // of the row that comes
  Packed<X, VEC> taken[PIECES];  // what it becomes

  /// Calls f(piece, first column) for each of this thread's pieces.
  template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
      const int i = (piece * THREADS + threadIdx.x) * VEC;
      if (i < columns) f(piece, i);
    }
  }

  __device__ __forceinline__ void read_weight(const W* from) {
    each([&](int piece, int i) { weight[piece].read(from + i); });
  }

  __device__ __forceinline__ void fetch(i64 row) {
    each([&](int piece, int i) {
      own[piece].read(x + row * x_stride + i);
      if (ADD) others[piece].read(residual + row * residual_stride + i);
    });
  }

  /// Of the row that has come: x, or x + residual as it is stored, which may be in the place of either.
  __device__ __forceinline__ void take(i64 row) {
    each([&](int piece, int i) {
      taken[piece] = own[piece];
      if (!ADD) return;
      change(piece, [&](int j, float value) { return value + to_float(others[piece].elements().at[j]); });
      store<VEC>(sum + row * sum_stride + i, taken[piece].elements());
    });
  }

  /// To f(element, what it was).
  template <typename F> __device__ __forceinline__ void change(int piece, F f) {
    Vec<X, VEC> values = taken[piece].elements();
#pragma unroll
    for (int j = 0; j < VEC; j++) values.at[j] = from_float<X>(f(j, to_float(values.at[j])));
    taken[piece].set(values);
  }

  template <typename F> __device__ __forceinline__ float total(F f) const {
    float part = 0.0f;
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < VEC; j++) part += f(to_float(taken[piece].elements().at[j]));
    });
    return reduce_block(part, 0.0f, Sum());
  }

  __device__ __forceinline__ void write(i64 row, float mean, float factor, float weight_offset) {
    each([&](int piece, int i) {
      change(piece, [&](int j, float value) {
        const float normed = (value - mean) * factor * (to_float(weight[piece].elements().at[j]) + weight_offset);
        return bias ? normed + to_float(bias[i + j]) : normed;
      });
    });
#if QUANTIZE
    float absmax = 0.0f;
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < VEC; j++) absmax = MaxMagnitude()(absmax, fabsf(to_float(taken[piece].elements().at[j])));
    });
    const float scale = static_scales ? largest(static_scales, num_static)
                                      : scale_of<Y>(reduce_block(absmax, 0.0f, MaxMagnitude()));
    if (threadIdx.x == 0) scales[row * scales_stride] = scale;
    const Divisor divisor(scale);
    each([&](int piece, int i) {
      float values[VEC];
#pragma unroll
      for (int j = 0; j < VEC; j++) values[j] = to_float(taken[piece].elements().at[j]);
      store<VEC>(y + row * y_stride + i, encode<Y>(values, divisor));
    });
#else
    each([&](int piece, int i) { store<VEC>(y + row * y_stride + i, taken[piece].elements()); });
#endif
  }
};

#define NORM_PARAMETERS                                                                                            \
  const int *num_rows, const X *x, i64 x_stride, const X *residual, i64 residual_stride, X *sum, i64 sum_stride,   \
      Y *y, i64 y_stride, float *scales, i64 scales_stride, const float *static_scales, int num_static,            \
      const W *weight, const W *bias, int group_size, int weight_groups, float eps
/// `rows` of this block's group; what they wait for is done.
#define ROWS(bias)                                                                                                 \
  let_next_start();                                                                                                \
  const int at = blockIdx.y * group_size, weight_at = weight_groups == 1 ? 0 : at, count = *num_rows;              \
  Rows rows{x + at,      x_stride,       residual + at,  residual_stride, sum + at,     sum_stride,                \
            y + at,      y_stride,       bias,           group_size,      scales,       scales_stride,             \
            static_scales, num_static};                                                                            \
  rows.read_weight(weight + weight_at);                                                                            \
  wait_for_previous()

/// f(row) for each of this block's, which has been taken.
template <typename F> __device__ __forceinline__ void each_row(Rows& rows, int count, F f) {
  i64 row = blockIdx.x;
  if (row < count) rows.fetch(row);
  for (; row < count; row += gridDim.x) {
    rows.take(row);
    if (row + gridDim.x < count) rows.fetch(row + gridDim.x);
    f(row);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) rms_norm(NORM_PARAMETERS, float weight_offset) {
  ROWS(nullptr);
  each_row(rows, count, [&](i64 row) {
    const float squares = rows.total([](float value) { return value * value; });
    rows.write(row, 0.0f, rsqrtf(squares / group_size + eps), weight_offset);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) layer_norm(NORM_PARAMETERS) {
  ROWS(bias ? bias + weight_at : nullptr);
  each_row(rows, count, [&](i64 row) {
    const float mean = rows.total([](float value) { return value; }) / group_size;
    const float squares = rows.total([=](float value) { return (value - mean) * (value - mean); });
    rows.write(row, mean, rsqrtf(squares / group_size + eps), 0.0f);
  });
}
