// Where attention's results go. Y: their type, numbers or codes under a scale known beforehand.
#pragma once
#include "mma.cuh"
#include "quantize.cuh"

template <typename Out> struct OutputOf {
  static constexpr bool kIsCodes = sizeof(Out) == 1;
  Out* y;  // [tokens, heads, VALUE_HEAD_DIM]
  i64 stride;
  float scale;    // of codes
  float* scales;  // of each token
  i64 scales_stride;

  __device__ __forceinline__ OutputOf(Out* y, i64 stride, const float* calibrated, int num_calibrated, float* scales,
                                      i64 scales_stride)
      : y(y),
        stride(stride),
        scale(kIsCodes ? largest(calibrated, num_calibrated) : 1.0f),
        scales(scales),
        scales_stride(scales_stride) {}

  /// Neighbouring results, from column d of a token's head on. Who has the first of a token writes its scale.
  template <int kCount> __device__ __forceinline__ void put(i64 token, int head, int d, const float (&values)[kCount]) const {
    Out* target = y + token * stride + i64(head) * VALUE_HEAD_DIM + d;
    if constexpr (kIsCodes) {
      const float factor = 1.0f / scale;
      float quotients[kCount];
#pragma unroll
      for (int i = 0; i < kCount; i++) quotients[i] = values[i] * factor;
      store<kCount>(target, encode<Out>(quotients));
      if (head == 0 && d == 0) scales[token * scales_stride] = scale;
    } else if constexpr (sizeof(Out) == 2 && kCount == 2) {
      *reinterpret_cast<u32*>(target) = pack<Out>(values[0], values[1]);
    } else {
      Vec<Out, kCount> numbers;
#pragma unroll
      for (int i = 0; i < kCount; i++) numbers.at[i] = from_float<Out>(values[i]);
      store<kCount>(target, numbers);
    }
  }
};
typedef OutputOf<Y> Output;
