// What becomes of a product of query and key. SOFTCAP, ALIBI, WINDOW: whether the model has them.
#pragma once
#include "common.cuh"

constexpr float kLog2E = 1.4426950408889634f;

/// 2ˣ, to two units in the last place.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// A score times `unit()` is a binary logarithm, so that weights are powers of two.
struct ScoreRule {
  float scale, softcap, slope;  // of a head; the scale is positive
  int window;                   // tokens looked back at, itself included

  __device__ __forceinline__ float score(float product, int distance) const {
#if SOFTCAP
    // The hyperbolic tangent of x is 1 - 2 / (1 + e^2x).
    product = softcap - __fdividef(2.0f * softcap, 1.0f + exp2_fast(product * (2.0f * kLog2E * scale / softcap)));
#elif ALIBI
    product *= scale;
#endif
#if ALIBI
    product -= slope * distance;
#endif
    return product;
  }

  __device__ __forceinline__ float unit() const { return SOFTCAP || ALIBI ? kLog2E : scale * kLog2E; }

  __device__ __forceinline__ bool sees(int distance) const {
#if WINDOW
    if (distance >= window) return false;
#endif
    return distance >= 0;
  }

  __device__ __forceinline__ int first_visible(int position) const {
#if WINDOW
    if (position >= window) return position - window + 1;
#endif
    return 0;
  }
};
