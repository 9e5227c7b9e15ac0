// Elementwise ops and gatedActivation. X: the elements' type, OP: the function, VEC: elements per access.
#include "activations.cuh"

__device__ __forceinline__ float add(float a, float b) { return a + b; }
__device__ __forceinline__ float multiply(float a, float b) { return a * b; }

#if defined(UNARY)
extern "C" __global__ void unary(const int* num_rows, const X* x, i64 x_stride, X* y, i64 y_stride, int columns, float p0,
                                 float p1) {
  const int row = blockIdx.x, i = (blockIdx.y * blockDim.x + threadIdx.x) * VEC;
  const int rows = *num_rows;
  let_next_start();
  wait_for_previous();
  if (row >= rows || i >= columns) return;
  Vec<X, VEC> values = load<VEC>(x + row * x_stride + i);
#pragma unroll
  for (int j = 0; j < VEC; j++) values.at[j] = from_float<X>(OP(to_float(values.at[j]), p0, p1));
  store<VEC>(y + row * y_stride + i, values);
}

/// y = OP(first half of the columns) · second half; `columns` of y.
extern "C" __global__ void gated(const int* num_rows, const X* x, i64 x_stride, X* y, i64 y_stride, int columns) {
  const int row = blockIdx.x, i = (blockIdx.y * blockDim.x + threadIdx.x) * VEC;
  const int rows = *num_rows;
  let_next_start();
  wait_for_previous();
  if (row >= rows || i >= columns) return;
  Vec<X, VEC> gate = load<VEC>(x + row * x_stride + i);
  const Vec<X, VEC> up = load<VEC>(x + row * x_stride + columns + i);
#pragma unroll
  for (int j = 0; j < VEC; j++)
    gate.at[j] = from_float<X>(OP(to_float(gate.at[j]), 0.0f, 0.0f) * to_float(up.at[j]));
  store<VEC>(y + row * y_stride + i, gate);
}
#else
extern "C" __global__ void binary(const int* num_rows, const X* a, i64 a_stride, const X* b, i64 b_stride, X* y,
                                  i64 y_stride, int columns) {
  const int row = blockIdx.x, i = (blockIdx.y * blockDim.x + threadIdx.x) * VEC;
  const int rows = *num_rows;
  let_next_start();
  wait_for_previous();
  if (row >= rows || i >= columns) return;
  Vec<X, VEC> values = load<VEC>(a + row * a_stride + i);
  const Vec<X, VEC> others = load<VEC>(b + row * b_stride + i);
#pragma unroll
  for (int j = 0; j < VEC; j++) values.at[j] = from_float<X>(OP(to_float(values.at[j]), to_float(others.at[j])));
  store<VEC>(y + row * y_stride + i, values);
}
#endif
