// The few vector operations that kernels are written in, for AVX-512, AVX2 and (by vector extensions) NEON and the rest.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__clang__)
#define NEEDLETAIL_UNROLL _Pragma("unroll")
#else
#define NEEDLETAIL_UNROLL _Pragma("GCC unroll 64")
#endif

namespace needletail {

template <class Vector, class T>
inline Vector load_bits(const T* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

#if defined(__AVX512F__)

using Floats = __m512;

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
/// a * b + c
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

/// The first `count` lanes, 0 < count <= lanes; the others are zero and their memory is not touched.
inline Floats load_first(const float* p, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
inline void store_first(float* p, Floats v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
}

inline Floats load_float16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_float16(uint16_t* p, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/// Of kLanes pairs of bfloat16, the first of each pair; then the second of each.
inline Floats load_bfloat16_first(const uint16_t* pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
}
inline Floats load_bfloat16_second(const uint16_t* pairs) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), high));
}

#elif defined(__AVX2__)

using Floats = __m256;

inline Floats zeros() { return _mm256_setzero_ps(); }
inline Floats broadcast(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Floats load_first(const float* p, int count) { return _mm256_maskload_ps(p, first_lanes(count)); }
inline void store_first(float* p, Floats v, int count) { _mm256_maskstore_ps(p, first_lanes(count), v); }

inline Floats load_float16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_float16(uint16_t* p, Floats v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats load_bfloat16_first(const uint16_t* pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)), 16));
}
inline Floats load_bfloat16_second(const uint16_t* pairs) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)), high));
}

#else

typedef float Floats __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));
#if defined(__aarch64__)
typedef __fp16 Halves __attribute__((vector_size(8)));
#else
typedef _Float16 Halves __attribute__((vector_size(8)));
#endif

inline Floats zeros() { return Floats{}; }
inline Floats broadcast(float value) { return Floats{value, value, value, value}; }
inline Floats load(const float* p) { return load_bits<Floats>(p); }
inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
inline Floats add(Floats a, Floats b) { return a + b; }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

inline Floats load_first(const float* p, int count) {
  Floats v{};
  std::memcpy(&v, p, sizeof(float) * count);
  return v;
}
inline void store_first(float* p, Floats v, int count) { std::memcpy(p, &v, sizeof(float) * count); }

inline Floats load_float16(const uint16_t* p) { return __builtin_convertvector(load_bits<Halves>(p), Floats); }
inline void store_float16(uint16_t* p, Floats v) {
  const Halves halves = __builtin_convertvector(v, Halves);
  std::memcpy(p, &halves, sizeof halves);
}

inline Floats load_bfloat16_first(const uint16_t* pairs) {
  return reinterpret_cast<Floats>(load_bits<Words>(pairs) << 16);
}
inline Floats load_bfloat16_second(const uint16_t* pairs) {
  return reinterpret_cast<Floats>(load_bits<Words>(pairs) & 0xffff0000u);
}

#endif

/// Float lanes of a vector.
constexpr int kLanes = sizeof(Floats) / sizeof(float);

/// Asks for the cache line at `p` to be brought into the second-level cache. Any address is allowed.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

/// Lanes kFirst, kFirst + 1, … of a and b in turn: a, b, a, b, …
template <int kFirst, int... kLane>
inline Floats interleave(Floats a, Floats b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (kFirst + kLane / 2 + kLane % 2 * kLanes)...);
}

/// Transposes a square of kLanes vectors by log2(kLanes) perfect shuffles.
inline void transpose(Floats (&rows)[kLanes]) {
  constexpr auto kAllLanes = std::make_integer_sequence<int, kLanes>{};
  NEEDLETAIL_UNROLL
  for (int round = 1; round < kLanes; round *= 2) {
    Floats shuffled[kLanes];
    NEEDLETAIL_UNROLL
    for (int i = 0; i < kLanes / 2; i++) {
      shuffled[2 * i] = interleave<0>(rows[i], rows[i + kLanes / 2], kAllLanes);
      shuffled[2 * i + 1] = interleave<kLanes / 2>(rows[i], rows[i + kLanes / 2], kAllLanes);
    }
    NEEDLETAIL_UNROLL
    for (int i = 0; i < kLanes; i++) rows[i] = shuffled[i];
  }
}

}  // namespace needletail
