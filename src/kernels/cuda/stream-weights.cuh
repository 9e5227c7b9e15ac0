// How the stored weights of linear-stream.cuh become 16-bit numbers: T is X, numbers as they are, or codes of 8 bits.
#pragma once
#include "dequantize.cuh"

template <typename T> struct StoredWeights {
  static constexpr int kAtoms = 2, kItemBytes = 1;

  static __device__ __forceinline__ uint4 decode(const u8* row, int swizzle, int atom, int c, int half) {
    // Of both halves, so that it is one access for the two.
    const uint4 codes = *reinterpret_cast<const uint4*>(row + ((4 * atom + c) ^ swizzle) * 16);
    uint4 numbers;
    pairs<T, X>(half ? codes.z : codes.x, numbers.x, numbers.y);
    pairs<T, X>(half ? codes.w : codes.y, numbers.z, numbers.w);
    return numbers;
  }
};

template <> struct StoredWeights<X> {
  static constexpr int kAtoms = 1, kItemBytes = 2;

  static __device__ __forceinline__ uint4 decode(const u8* row, int swizzle, int, int c, int half) {
    return *reinterpret_cast<const uint4*>(row + ((2 * c + half) ^ swizzle) * 16);
  }
};
