// rmsNorm and layerNorm over groups of columns, after a residual add if ADD is 1. One block per row and group; every
// thread reads its own elements again, so outputs may lie on inputs. X: the activations' type, W: the weights', VEC:
// elements per access; statistics in float32.
#include "common.cuh"

struct Row {
  const X* x;
  const X* residual;  // of ADD
  X* sum;             // of ADD
  X* y;
  const W* weight;
  const W* bias;  // may be null
  int columns;

  /// Calls f(first column, values) for each of this thread's pieces.
  template <typename F> __device__ __forceinline__ void each(const X* from, F f) const {
    for (int i = threadIdx.x * VEC; i < columns; i += blockDim.x * VEC) f(i, load<VEC>(from + i));
  }

  /// x + residual, as it is stored; gives where the norm reads.
  __device__ __forceinline__ const X* add() const {
#if ADD
    each(x, [&](int i, Vec<X, VEC> values) {
      const Vec<X, VEC> others = load<VEC>(residual + i);
#pragma unroll
      for (int j = 0; j < VEC; j++) values.at[j] = from_float<X>(to_float(values.at[j]) + to_float(others.at[j]));
      store<VEC>(sum + i, values);
    });
    return sum;
#else
    return x;
#endif
  }

  template <typename F> __device__ __forceinline__ float total(const X* from, F f) const {
    float part = 0.0f;
    each(from, [&](int, const Vec<X, VEC>& values) {
#pragma unroll
      for (int j = 0; j < VEC; j++) part += f(to_float(values.at[j]));
    });
    return reduce_block(part, 0.0f, Sum());
  }

  __device__ __forceinline__ void write(const X* from, float mean, float factor, float weight_offset) const {
    each(from, [&](int i, Vec<X, VEC> values) {
      const Vec<W, VEC> w = load<VEC>(weight + i);
#pragma unroll
      for (int j = 0; j < VEC; j++) {
        const float normed = (to_float(values.at[j]) - mean) * factor * (to_float(w.at[j]) + weight_offset);
        values.at[j] = from_float<X>(bias ? normed + to_float(bias[i + j]) : normed);
      }
      store<VEC>(y + i, values);
    });
  }
};

__device__ __forceinline__ Row this_row(const X* x, i64 x_stride, const X* residual, i64 residual_stride, X* sum,
                                        i64 sum_stride, X* y, i64 y_stride, const W* weight, const W* bias,
                                        int group_size, int weight_groups) {
  const i64 row = blockIdx.x;
  const int at = blockIdx.y * group_size;
  const int weight_at = weight_groups == 1 ? 0 : at;
  return {x + row * x_stride + at,     residual + row * residual_stride + at,
          sum + row * sum_stride + at, y + row * y_stride + at,
          weight + weight_at,          bias ? bias + weight_at : nullptr,
          group_size};
}

#define NORM_PARAMETERS                                                                                            \
  const int *num_rows, const X *x, i64 x_stride, const X *residual, i64 residual_stride, X *sum, i64 sum_stride,   \
      X *y, i64 y_stride, const W *weight, const W *bias, int group_size, int weight_groups, float eps
#define NORM_ARGUMENTS                                                                                             \
  x, x_stride, residual, residual_stride, sum, sum_stride, y, y_stride, weight, bias, group_size, weight_groups

extern "C" __global__ void rms_norm(NORM_PARAMETERS, float weight_offset) {
  if (blockIdx.x >= *num_rows) return;
  const Row row = this_row(NORM_ARGUMENTS);
  const X* from = row.add();
  const float squares = row.total(from, [](float value) { return value * value; });
  row.write(from, 0.0f, rsqrtf(squares / group_size + eps), weight_offset);
}

extern "C" __global__ void layer_norm(NORM_PARAMETERS) {
  if (blockIdx.x >= *num_rows) return;
  const Row row = this_row(NORM_ARGUMENTS);
  const X* from = row.add();
  const float mean = row.total(from, [](float value) { return value; }) / group_size;
  const float squares = row.total(from, [=](float value) { return (value - mean) * (value - mean); });
  row.write(from, mean, rsqrtf(squares / group_size + eps), 0.0f);
}
