// An output of a plain grouped product, whose sums a warp's lanes have parts of. GATE: the function by which the first half of a
// matrix's outputs gates the second, which is the output then.
#pragma once
#include "activations.cuh"

#ifndef GATE
constexpr int kHalves = 1;
#else
constexpr int kHalves = 2;
#endif

/// The same in all lanes. `row` is the first half's output in the stack of matrices, the second's lies `outputs` behind it.
template <typename B>
__device__ __forceinline__ float gated_sum(float (&sum)[kHalves], const B* bias, i64 row, int outputs) {
#pragma unroll
  for (int half = 0; half < kHalves; half++)
    sum[half] = reduce_warp(sum[half], Sum()) + (bias ? to_float(bias[row + half * outputs]) : 0.0f);
#ifdef GATE
  return GATE(sum[0], 0.0f, 0.0f) * sum[1];
#else
  return sum[0];
#endif
}
