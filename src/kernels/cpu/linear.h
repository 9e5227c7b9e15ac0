// Products of activations with a packed weight matrix: y = x · weightᵀ + bias. See linear.cc for the layouts.
#pragma once

#include <cstdint>

#include "linear-pack.h"
#include "thread-context.h"

namespace needletail {

/// x [m, k] and y [m, n], their rows `x_stride` and `y_stride` elements apart; y is float32, and x too unless it is of
/// codes itself; weight [n, k] as packed; bias [n] or null. `workspace` is shared by the threads of the launch and as
/// large as the launch description says.
struct LinearArgs {
  const void* x;
  int64_t x_stride;
  const void* weight;
  const float* bias;
  float* y;
  int64_t y_stride;
  int32_t m, n, k;
  void* workspace;
  /// For weights that are codes.
  CodeScales scales;
};

// Called by every thread of the team; each returns when its own share is done.

/// float32 weights, layout panel16.
void linear_fp32(const LinearArgs& args, const ThreadContext& context);
/// float16 weights, layout panel16, products in float32.
void linear_fp16(const LinearArgs& args, const ThreadContext& context);
/// bfloat16 weights, layout panel16x2, products in float32.
void linear_bf16(const LinearArgs& args, const ThreadContext& context);
#if defined(__AVX512BF16__)
/// bfloat16 weights, layout panel16x2; activations are rounded to bfloat16, sums are float32.
void linear_bf16_dot(const LinearArgs& args, const ThreadContext& context);
#endif

}  // namespace needletail
