// Numbers as codes with a scale, to the rules of src/tensor/quantize-rows.ts bit by bit: all arithmetic is float32, whole
// numbers round half to even, and a group with a number that is not finite gets such a scale.
#pragma once

#include "float8.h"

namespace needletail {

struct Int8 {
  int8_t value;
};

inline Floats load_floats(const Int8* p) {
  typedef int8_t SignedBytes __attribute__((vector_size(sizeof(Bytes))));
  return __builtin_convertvector(load_bits<SignedBytes>(p), Floats);
}

/// The nearest whole numbers, of two the even ones, for magnitudes below 2^22; of NaN 0.
inline Ints round_to_int(Floats v) {
  const Floats magic = broadcast(12582912.0f);  // 1.5 · 2^23
  return (as_ints(v + magic) - as_ints(magic)) & (v == v);
}

/// Within [−limit, limit]; NaN stays NaN.
inline Floats clamp(Floats v, float limit) { return min(broadcast(limit), max(broadcast(-limit), v)); }

/// The nearest whole numbers within [−127, 127].
inline void store_floats(Int8* p, Floats v) { store_bytes(p, round_to_int(clamp(v, 127.0f))); }

/// The largest magnitude; NaN if there is one. Bits of magnitudes order as the numbers do, NaN above all.
inline float absmax(const float* x, int64_t size) {
  Ints largest{};
  for_each_vector(size, [&](int64_t i, int count) {
    const Ints bits = as_ints(absolute(load_lanes(x + i, count)));
    largest = select_bits(bits > largest, bits, largest);
  });
  int32_t most = 0;
  for (int i = 0; i < kLanes; i++) most = largest[i] > most ? largest[i] : most;
  float value;
  std::memcpy(&value, &most, sizeof value);
  return value;
}

inline float nonzero_scale(float scale) { return scale == 0 ? 1.0f : scale; }

inline float scale_divisor(Int8) { return 127.0f; }
inline float scale_divisor(Float8) { return 448.0f; }
template <class Code>
inline float scale_of(float absmax) {
  return nonzero_scale(absmax / scale_divisor(Code{}));
}

/// `size` codes of x / scale.
template <class Code>
inline void store_codes(const float* x, int64_t size, float scale, Code* to) {
  for_each_vector(size, [&](int64_t i, int count) {
    const Floats quotients = load_lanes(x + i, count) / scale;
    if (count == kLanes) return store_floats(to + i, quotients);
    Code last[kLanes];
    store_floats(last, quotients);
    std::memcpy(to + i, last, count);
  });
}

}  // namespace needletail
