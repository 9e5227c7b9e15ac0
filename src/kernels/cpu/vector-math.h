// Vector arithmetic that most kernels share: maxima, sums over lanes, exp, tanh, erf, and loads of 16-bit types.
#pragma once

#include <cmath>
#include <cstdint>

#include "simd.h"

namespace needletail {

typedef int32_t Ints __attribute__((vector_size(sizeof(Floats))));
typedef uint16_t Shorts __attribute__((vector_size(sizeof(Floats) / 2)));

inline Floats as_floats(Ints v) { return reinterpret_cast<Floats>(v); }
inline Ints as_ints(Floats v) { return reinterpret_cast<Ints>(v); }
inline Ints broadcast_int(int32_t value) { return Ints{} + value; }
inline Floats to_floats(Floats v) { return v; }
inline Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }
/// `mask ? a : b`, lane by lane; `mask` is the result of a comparison.
inline Ints select_bits(Ints mask, Ints a, Ints b) { return (mask & a) | (~mask & b); }
inline Floats select(Ints mask, Floats a, Floats b) { return as_floats(select_bits(mask, as_ints(a), as_ints(b))); }
#if defined(__AVX512F__)
// The second operand of these instructions is the one that comes through when either is NaN.
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
#else
inline Floats max(Floats a, Floats b) { return select(a > b, a, b); }
inline Floats min(Floats a, Floats b) { return select(a < b, a, b); }
#endif
inline Floats absolute(Floats v) { return as_floats(as_ints(v) & 0x7fffffff); }
/// The magnitude of `v` with the sign of `sign`.
inline Floats copy_sign(Floats v, Floats sign) {
  return as_floats((as_ints(v) & 0x7fffffff) | (as_ints(sign) & int32_t(0x80000000u)));
}

#if defined(__AVX512F__)
inline float sum_lanes(Floats v) { return _mm512_reduce_add_ps(v); }
/// Of lanes that are no NaN.
inline float max_lanes(Floats v) { return _mm512_reduce_max_ps(v); }
#else
template <typename F>
inline float fold_lanes(Floats v, F f) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; i++) lanes[i] = f(lanes[i], lanes[i + width]);
  }
  return lanes[0];
}
inline float sum_lanes(Floats v) {
  return fold_lanes(v, [](float a, float b) { return a + b; });
}
/// Of lanes that are no NaN.
inline float max_lanes(Floats v) {
  return fold_lanes(v, [](float a, float b) { return a > b ? a : b; });
}
#endif

/// e^x within 1e-7 of itself for x in [−87, 88]; 0 below, e^88 above, NaN for NaN.
inline Floats exp(Floats x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 · 2^23 rounds to an integer and leaves it in the low bits.
  const Floats magic = broadcast(12582912.0f);
  const Floats clamped = min(broadcast(88.0f), max(broadcast(-88.0f), x));
  const Floats shifted = multiply_add(clamped, broadcast(1.44269504f), magic);
  const Floats n = shifted - magic;
  Floats r = multiply_add(n, broadcast(-0.693145752f), clamped);  // ln 2 in two parts
  r = multiply_add(n, broadcast(-1.42860677e-6f), r);
  // Minimax polynomial of (e^r − 1 − r) / r^2 on |r| <= 0.35.
  Floats p = broadcast(0.00139517172f);
  p = multiply_add(p, r, broadcast(0.00836959841f));
  p = multiply_add(p, r, broadcast(0.0416661873f));
  p = multiply_add(p, r, broadcast(0.166665129f));
  p = multiply_add(p, r, broadcast(0.50000001f));
  p = multiply_add(p * r, r, r) + 1.0f;
  // n = −127 gives a scale of zero.
  const Ints scale = (as_ints(shifted) - as_ints(magic) + 127) << 23;
  return p * as_floats(scale);
}

inline Floats sigmoid(Floats x) {
  const Floats e = exp(-absolute(x));
  const Floats positive = 1.0f / (1.0f + e);
  return select(x < 0.0f, e * positive, positive);
}

inline Floats tanh(Floats x) {
  const Floats magnitude = absolute(x);
  const Floats e = exp(-2.0f * magnitude);
  const Floats large = copy_sign((1.0f - e) / (1.0f + e), x);
  // Minimax polynomial of (tanh(x) / x − 1) / x^2 on |x| <= 0.63, where 1 − e would cancel.
  const Floats z = x * x;
  Floats p = broadcast(-0.00606223106f);
  p = multiply_add(p, z, broadcast(0.0209750134f));
  p = multiply_add(p, z, broadcast(-0.0538466953f));
  p = multiply_add(p, z, broadcast(0.133327464f));
  p = multiply_add(p, z, broadcast(-0.333333288f));
  return select(magnitude < 0.62f, multiply_add(p * z, x, x), large);
}

/// erf(x) for |x| <= 1: a minimax polynomial of erf(x) / x in x^2.
inline Floats small_erf(Floats x) {
  const Floats z = x * x;
  Floats p = broadcast(7.88911949e-5f);
  p = multiply_add(p, z, broadcast(-0.000802084127f));
  p = multiply_add(p, z, broadcast(0.00518953534f));
  p = multiply_add(p, z, broadcast(-0.0268544446f));
  p = multiply_add(p, z, broadcast(0.112836002f));
  p = multiply_add(p, z, broadcast(-0.376126271f));
  return multiply_add(p, z, broadcast(1.12837917f)) * x;
}

/// 1 − erf(x) for x >= 0.95, as e to a minimax polynomial; 1.5e-8 from 4 on.
inline Floats large_erfc(Floats x) {
  const Floats t = min(broadcast(4.0f), x);
  Floats q = broadcast(0.000191505033f);
  q = multiply_add(q, t, broadcast(-0.00299954906f));
  q = multiply_add(q, t, broadcast(0.0220520291f));
  q = multiply_add(q, t, broadcast(-0.103566955f));
  q = multiply_add(q, t, broadcast(-0.63759997f));
  q = multiply_add(q, t, broadcast(-1.12742613f));
  return exp(multiply_add(q, t, broadcast(-0.000256436634f)));
}

/// 1 + erf(x), without cancellation for negative x.
inline Floats one_plus_erf(Floats x) {
  const Floats tail = large_erfc(absolute(x));
  const Floats large = select(x < 0.0f, tail, 2.0f - tail);
  return select(absolute(x) < 1.0f, 1.0f + small_erf(x), large);
}

// 16-bit floats as memory holds them.
struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float to_float(float v) { return v; }
inline float to_float(Bfloat16 v) {
  const uint32_t bits = uint32_t(v.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
#if defined(__x86_64__)
inline float to_float(Float16 v) { return _cvtsh_ss(v.bits); }
inline uint16_t to_float16_bits(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
#else
inline float to_float(Float16 v) {
  __fp16 half;
  std::memcpy(&half, &v, sizeof half);
  return float(half);
}
inline uint16_t to_float16_bits(float value) {
  const __fp16 half = __fp16(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
#endif

/// Round to nearest, ties to even; NaN stays NaN.
inline void from_float(float value, float* out) { *out = value; }
inline void from_float(float value, Bfloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out->bits = uint16_t(value == value ? rounded : (bits >> 16) | 0x40);
}
inline void from_float(float value, Float16* out) { out->bits = to_float16_bits(value); }

/// A vector of neighbouring elements, as floats.
inline Floats load_floats(const float* p) { return load(p); }
inline Floats load_floats(const Float16* p) { return load_float16(&p->bits); }
inline Floats load_floats(const Bfloat16* p) {
  Shorts bits;
  std::memcpy(&bits, p, sizeof bits);
  return as_floats(__builtin_convertvector(bits, Ints) << 16);
}

/// kLanes floats rounded to nearest, ties to even, and stored.
inline void store_floats(float* p, Floats v) { store(p, v); }
inline void store_floats(Float16* p, Floats v) { store_float16(&p->bits, v); }
inline void store_floats(Bfloat16* p, Floats v) {
  const Ints bits = as_ints(v);
  const Ints rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Ints result = select_bits(v == v, rounded, bits | 0x400000);
  const Shorts narrow = __builtin_convertvector(result >> 16, Shorts);
  std::memcpy(p, &narrow, sizeof narrow);
}

/// The first `count` of them, the other lanes zero, their memory untouched.
inline Floats load_first_floats(const float* p, int count) { return load_first(p, count); }
template <typename T>
inline Floats load_first_floats(const T* p, int count) {
  T elements[kLanes] = {};
  std::memcpy(elements, p, sizeof(T) * count);
  return load_floats(elements);
}

/// `f(lane offset, lanes)` over `size` elements, vector by vector; only the last may be partial.
template <typename F>
inline void for_each_vector(int64_t size, F f) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) f(i, kLanes);
  if (i < size) f(i, int(size - i));
}

inline Floats load_lanes(const float* p, int count) { return count == kLanes ? load(p) : load_first(p, count); }
inline void store_lanes(float* p, Floats v, int count) {
  if (count == kLanes) store(p, v);
  else store_first(p, v, count);
}

/// y = a + b.
inline void add_vectors(const float* a, const float* b, float* y, int64_t size) {
  for_each_vector(size, [&](int64_t i, int count) {
    store_lanes(y + i, load_lanes(a + i, count) + load_lanes(b + i, count), count);
  });
}

}  // namespace needletail
