// Codes of weights made numbers in registers: four at a time, neighbours in one register, exact in 16 bits.
#pragma once
#include "common.cuh"

/// (mask & word) | bits.
template <u32 kMask, u32 kBits> __device__ __forceinline__ u32 masked(u32 word) {
  u32 y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(word), "n"(kMask), "n"(kBits));
  return y;
}

/// a · b + c of two pairs.
template <typename T> __device__ __forceinline__ u32 multiply_add(u32 a, u32 b, u32 c);
template <> __device__ __forceinline__ u32 multiply_add<bf16>(u32 a, u32 b, u32 c) {
  u32 y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
  return y;
}
template <> __device__ __forceinline__ u32 multiply_add<fp16>(u32 a, u32 b, u32 c) {
  u32 y;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
  return y;
}

/// Codes, by the name of their type.
struct int8 { u8 bits; };
struct e4m3 { u8 bits; };
struct uint4_codes { u8 bits; };  // two

/// The numbers (0, 1) and (2, 3) of a word of four.
template <typename Code, typename T> __device__ __forceinline__ void pairs(u32 word, u32& low, u32& high);

// 128 + the lower seven bits, less 128 or, where the sign bit stands in the exponent's last place, 256.
__device__ __forceinline__ u32 int8_pair_bf16(u32 bytes) {
  const u32 minus_one = 0xbf80bf80;
  return multiply_add<bf16>(masked<0x00800080, 0x43004300>(bytes), minus_one, masked<0x007f007f, 0x43004300>(bytes));
}
template <> __device__ __forceinline__ void pairs<int8, bf16>(u32 word, u32& low, u32& high) {
  low = int8_pair_bf16(__byte_perm(word, 0, 0x4140));
  high = int8_pair_bf16(__byte_perm(word, 0, 0x4342));
}

// 1024 + (code + 128), less 1152.
template <> __device__ __forceinline__ void pairs<int8, fp16>(u32 word, u32& low, u32& high) {
  const u32 one = 0x3c003c00, offset = 0xe480e480;
  word ^= 0x80808080;
  low = multiply_add<fp16>(__byte_perm(word, 0x64646464, 0x4140), one, offset);
  high = multiply_add<fp16>(__byte_perm(word, 0x64646464, 0x4342), one, offset);
}

// The bits at their places, an exponent 2^-120 too small; subnormals as well.
__device__ __forceinline__ u32 e4m3_pair_bf16(u32 bytes) {
  const u32 number = masked<0x80008000, 0>(bytes) | masked<0x07f007f0, 0>(bytes >> 4);
  return multiply_add<bf16>(number, 0x7b807b80, 0x80008000);
}
template <> __device__ __forceinline__ void pairs<e4m3, bf16>(u32 word, u32& low, u32& high) {
  low = e4m3_pair_bf16(__byte_perm(word, 0, 0x1404));
  high = e4m3_pair_bf16(__byte_perm(word, 0, 0x3424));
}

template <> __device__ __forceinline__ void pairs<e4m3, fp16>(u32 word, u32& low, u32& high) {
#if __CUDA_ARCH__ >= 890
  asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\ncvt.rn.f16x2.e4m3x2 %1, high;\n}"
      : "=r"(low), "=r"(high)
      : "r"(word));
#else
  // An exponent 2^-8 too small.
  const u32 lower = __byte_perm(word, 0, 0x1404), upper = __byte_perm(word, 0, 0x3424), factor = 0x5c005c00;
  low = multiply_add<fp16>(masked<0x80008000, 0>(lower) | masked<0x3f803f80, 0>(lower >> 1), factor, 0x80008000);
  high = multiply_add<fp16>(masked<0x80008000, 0>(upper) | masked<0x3f803f80, 0>(upper >> 1), factor, 0x80008000);
#endif
}

/// The numbers (0, 2) and (1, 3) of a word of four.
template <typename Code, typename T> __device__ __forceinline__ void crossed_pairs(u32 word, u32& low, u32& high) {
  pairs<Code, T>(__byte_perm(word, 0, 0x3120), low, high);
}
template <> __device__ __forceinline__ void crossed_pairs<int8, fp16>(u32 word, u32& low, u32& high) {
  const u32 one = 0x3c003c00, offset = 0xe480e480;
  word ^= 0x80808080;
  low = multiply_add<fp16>(__byte_perm(word, 0x64646464, 0x4240), one, offset);
  high = multiply_add<fp16>(__byte_perm(word, 0x64646464, 0x4341), one, offset);
}

/// What every number of `uint4_pairs` is too large by: less is lost where offsets are taken off sums instead of numbers.
template <typename T> constexpr float kUint4Offset = 0.0f;
template <> constexpr float kUint4Offset<bf16> = 16.0f;
template <> constexpr float kUint4Offset<fp16> = 64.0f;

/// A word of eight codes, those of even columns in its lower half (`evenOdd` layout): kUint4Offset + code of (0, 1), (2, 3), …
template <typename T> __device__ __forceinline__ void uint4_pairs(u32 word, u32 (&pairs)[4]);
template <> __device__ __forceinline__ void uint4_pairs<bf16>(u32 word, u32 (&pairs)[4]) {
  pairs[0] = masked<0x00780078, 0x41804180>(word << 3);
  pairs[1] = masked<0x00780078, 0x41804180>(word >> 1);
  pairs[2] = masked<0x00780078, 0x41804180>(word >> 5);
  pairs[3] = masked<0x00780078, 0x41804180>(word >> 9);
}
template <> __device__ __forceinline__ void uint4_pairs<fp16>(u32 word, u32 (&pairs)[4]) {
  pairs[0] = masked<0x00f000f0, 0x54005400>(word << 4);
  pairs[1] = masked<0x00f000f0, 0x54005400>(word);
  pairs[2] = masked<0x00f000f0, 0x54005400>(word >> 4);
  pairs[3] = masked<0x00f000f0, 0x54005400>(word >> 8);
}

/// One code at a time.
__device__ __forceinline__ float to_float(int8 code) { return float((signed char)(code.bits)); }
__device__ __forceinline__ float to_float(e4m3 code) {
  u32 low, high;
  pairs<e4m3, fp16>(code.bits, low, high);
  return (code.bits & 0x7f) == 0x7f ? __uint_as_float(0x7fffffff) : to_float(fp16{u16(low)});
}

template <typename Codes> constexpr float kImpliedZero = 0.0f;
template <> constexpr float kImpliedZero<uint4_codes> = 8.0f;
template <typename Codes> constexpr int kCodesPerByte = 1;
template <> constexpr int kCodesPerByte<uint4_codes> = 2;

/// The evenOdd layout of uint4 codes has those of even columns in the lower half of a word of eight: where a column stands, and
/// which one stands at a place.
__device__ __forceinline__ int even_odd_place(int column) {
  const int in_word = column % 8;
  return column - in_word + (in_word / 2 + in_word % 2 * 4);
}
__device__ __forceinline__ int even_odd_column(int place) {
  const int in_word = place % 8;
  return place - in_word + (in_word % 4 * 2 + in_word / 4);
}
