// Numbers to codes of 8 bits under a scale, as tensor/quantize-rows.ts defines it to the last bit. Of numbers that are not finite
// the scale is not finite either, so that it shows.
#pragma once
#include "dequantize.cuh"

template <typename Code> constexpr float kLargestCode = 127.0f;
template <> constexpr float kLargestCode<e4m3> = 448.0f;
template <> constexpr float kLargestCode<uint4_codes> = 7.0f;

#if __CUDA_ARCH__ >= 890
constexpr bool kHasFloat8Pairs = true;
#else
constexpr bool kHasFloat8Pairs = false;
#endif
template <typename Code> constexpr bool kIsFloat8 = false;
template <> constexpr bool kIsFloat8<e4m3> = true;

/// Of magnitudes; NaN is above all.
struct MaxMagnitude {
  __device__ __forceinline__ float operator()(float a, float b) const {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
  }
};

template <typename Code> __device__ __forceinline__ float scale_of(float absmax) {
  const float scale = absmax / kLargestCode<Code>;
  return scale == 0.0f ? 1.0f : scale;
}

/// The scale of several calibrated ones that suits them all.
__device__ __forceinline__ float largest(const float* scales, int count) {
  float most = scales[0];
  for (int i = 1; i < count; i++) most = fmaxf(most, scales[i]);
  return most;
}

/// Division by a scale, to the bit of float32's, at the price of three operations: by the reciprocal, then the remainder's share.
struct Divisor {
  float scale, reciprocal;
  bool is_plain;

  __device__ __forceinline__ explicit Divisor(float divisor)
      : scale(divisor), reciprocal(1.0f / divisor), is_plain(divisor > 1e-30f && divisor < 1e30f) {}

  /// By a plain one. Beyond every code it may be off by a bit.
  __device__ __forceinline__ float of(float x) const {
    const float quotient = x * reciprocal;
    return fabsf(quotient) > 1e6f ? quotient : fmaf(fmaf(-quotient, scale, x), reciprocal, quotient);
  }
};

template <typename Code> __device__ __forceinline__ Code encode(float x);
template <> __device__ __forceinline__ int8 encode<int8>(float x) {
  return {u8(int(fminf(fmaxf(rintf(x), -127.0f), 127.0f)))};
}
template <> __device__ __forceinline__ e4m3 encode<e4m3>(float x) {
#if __CUDA_ARCH__ >= 890
  u16 codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(0.0f), "f"(x));
  return {u8(codes)};
#else
  const u32 bits = __float_as_uint(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {u8(sign | 0x7f)};
  // Below 2^-6 the last place is 2^-9; adding 2^14 rounds there.
  if (magnitude < 0x3c800000) return {u8(sign | (__float_as_uint(__uint_as_float(magnitude) + 16384.0f) - 0x46800000))};
  const u32 rounded = (magnitude - 0x3c000000 + 0x7ffff + (magnitude >> 20 & 1)) >> 20;
  return {u8(sign | min(rounded, 0x7eu))};
#endif
}

/// Two neighbours at a time where the chip has an instruction for them.
template <typename Code, int N> __device__ __forceinline__ Vec<Code, N> encode(const float (&values)[N]) {
  Vec<Code, N> codes;
  if constexpr (kIsFloat8<Code> && kHasFloat8Pairs && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      u16 pair;
      asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(values[i + 1]), "f"(values[i]));
      codes.at[i] = {u8(pair)}, codes.at[i + 1] = {u8(pair >> 8)};
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) codes.at[i] = encode<Code>(values[i]);
  }
  return codes;
}

/// Codes of numbers divided by a scale.
template <typename Code, int N>
__device__ __forceinline__ Vec<Code, N> encode(const float (&values)[N], const Divisor& divisor) {
  float quotients[N];
  if (divisor.is_plain) {
#pragma unroll
    for (int i = 0; i < N; i++) quotients[i] = divisor.of(values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) quotients[i] = values[i] / divisor.scale;
  }
  return encode<Code>(quotients);
}
