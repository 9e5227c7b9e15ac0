// float8 e4m3: 1 sign, 4 exponent bits with bias 7, 3 of mantissa; no infinities, 0x7f is NaN, 448 the largest number.
#pragma once

#include "vector-math.h"

namespace needletail {

struct Float8 {
  uint8_t bits;
};

typedef uint8_t Bytes __attribute__((vector_size(sizeof(Floats) / 4)));

/// The numbers whose codes are the top bytes of each lane; none of them is NaN. The fields of e4m3 are moved to where
/// float32 has them, and the exponent's bias is added. Of subnormal numbers, m / 8 · 2^-6, this makes (8 + m) / 8 · 2^-7;
/// taking 2^-6 from twice that gives them, and of all others something larger.
inline Floats float8_numbers(Ints codes) {
  const Floats normal = as_floats(((codes >> 4) & 0x07f00000) + (120 << 23));
  const Floats subnormal = multiply_add(normal, broadcast(2.0f), broadcast(-0x1p-6f));
  return as_floats(as_ints(min(normal, subnormal)) | (codes & int32_t(0x80000000u)));
}

/// The same of any codes.
inline Floats decode_float8(Ints codes) {
  const Ints is_nan = (codes & 0x7f000000) == 0x7f000000;
  return select(is_nan, as_floats(codes | 0x7fffffff), float8_numbers(codes));
}

/// Codes of the nearest numbers, ties to even, beyond ±448 saturated; NaN stays NaN.
inline Ints encode_float8(Floats v) {
  const Ints bits = as_ints(min(broadcast(448.0f), absolute(v)));  // NaN comes through
  const Ints normal = ((bits + 0x7ffff + ((bits >> 20) & 1)) >> 20) - (120 << 3);
  // In float32 numbers from 2^14 on have the spacing of e4m3's subnormal ones.
  const Ints subnormal = as_ints(as_floats(bits) + 16384.0f) - as_ints(broadcast(16384.0f));
  const Ints magnitude = select_bits(as_floats(bits) < 0x1p-6f, subnormal, normal);
  const Ints code = select_bits(v == v, magnitude, broadcast_int(0x7f));
  return code | ((as_ints(v) >> 24) & 0x80);
}

/// The low bytes of the lanes.
inline void store_bytes(void* p, Ints v) {
  const Bytes bytes = __builtin_convertvector(v, Bytes);
  std::memcpy(p, &bytes, sizeof bytes);
}

inline Floats load_floats(const Float8* p) {
  Bytes bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return decode_float8(__builtin_convertvector(bytes, Ints) << 24);
}

inline void store_floats(Float8* p, Floats v) { store_bytes(p, encode_float8(v)); }

}  // namespace needletail
