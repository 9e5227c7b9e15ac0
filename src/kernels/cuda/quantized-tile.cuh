// Products of a tile of 16 weight rows, whose codes a lane has in registers, with 8 rows of x: lane 4g + c has the same 16 bytes
// of rows g and g + 8, and the inputs that they stand for of row g of x.
#pragma once
#include "dequantize.cuh"
#include "mma.cuh"

template <int kWords> __device__ __forceinline__ void copy_words(const u32 (&from)[kWords], u32 (&to)[kWords]) {
#pragma unroll
  for (int i = 0; i < kWords; i++) to[i] = from[i];
}

/// Weights that are multiplied as they are stored: words 2i and 2i + 1 of either row are step i's.
__device__ __forceinline__ void place_words(const u32 (&low)[4], const u32 (&high)[4], u32 (&a)[2][4]) {
#pragma unroll
  for (int i = 0; i < 2; i++)
    a[i][0] = low[2 * i], a[i][1] = high[2 * i], a[i][2] = low[2 * i + 1], a[i][3] = high[2 * i + 1];
}

/// `kPiece` inputs in 64 bytes of a row are `kSteps` products; step i takes words 2i and 2i + 1 of
/// x, of which memory has `kXWords`.
template <typename Codes, typename X> struct Tile {
  typedef float Sum;
  static constexpr int kPiece = 64, kSteps = 4, kXWords = 8;
  static constexpr float kOffset = 0.0f, kMiddle = 0.0f;
  u32 a[kSteps][4];

  __device__ __forceinline__ Tile(const u32 (&low)[4], const u32 (&high)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      pairs<Codes, X>(low[i], a[i][0], a[i][2]);
      pairs<Codes, X>(high[i], a[i][1], a[i][3]);
    }
  }
  __device__ __forceinline__ static void expand(const u32 (&words)[kXWords], u32 (&x)[2 * kSteps]) {
    copy_words(words, x);
  }
  __device__ __forceinline__ static void multiply(Sum (&sum)[4], const u32 (&a)[4], u32 x0, u32 x1) {
    mma<X>(sum, a, x0, x1);
  }
};

template <typename X> struct Tile<uint4_codes, X> {
  typedef float Sum;
  static constexpr int kPiece = 128, kSteps = 8, kXWords = 16;
  /// What every number is too large by; the zero of weights that have none.
  static constexpr float kOffset = kUint4Offset<X>, kMiddle = 8.0f;
  u32 a[kSteps][4];

  __device__ __forceinline__ Tile(const u32 (&low)[4], const u32 (&high)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 from_low[4], from_high[4];
      uint4_pairs<X>(low[i], from_low);
      uint4_pairs<X>(high[i], from_high);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        a[2 * i + j / 2][j % 2 * 2] = from_low[j];
        a[2 * i + j / 2][j % 2 * 2 + 1] = from_high[j];
      }
    }
  }
  __device__ __forceinline__ static void expand(const u32 (&words)[kXWords], u32 (&x)[2 * kSteps]) {
    copy_words(words, x);
  }
  __device__ __forceinline__ static void multiply(Sum (&sum)[4], const u32 (&a)[4], u32 x0, u32 x1) {
    mma<X>(sum, a, x0, x1);
  }
};

/// Weights that are numbers of 16 bits.
template <typename X> struct Tile<X, X> {
  typedef float Sum;
  static constexpr int kPiece = 32, kSteps = 2, kXWords = 4;
  static constexpr float kOffset = 0.0f, kMiddle = 0.0f;
  u32 a[kSteps][4];

  __device__ __forceinline__ Tile(const u32 (&low)[4], const u32 (&high)[4]) { place_words(low, high, a); }
  __device__ __forceinline__ static void expand(const u32 (&words)[4], u32 (&x)[4]) {
    copy_words(words, x);
  }
  __device__ __forceinline__ static void multiply(float (&sum)[4], const u32 (&a)[4], u32 x0, u32 x1) {
    mma<X>(sum, a, x0, x1);
  }
};

/// Codes by codes of 8 bits.
template <> struct Tile<int8, int8> {
  typedef int Sum;
  static constexpr int kPiece = 64, kSteps = 2, kXWords = 4;
  static constexpr float kOffset = 0.0f, kMiddle = 0.0f;
  u32 a[kSteps][4];

  __device__ __forceinline__ Tile(const u32 (&low)[4], const u32 (&high)[4]) { place_words(low, high, a); }
  __device__ __forceinline__ static void expand(const u32 (&codes)[4], u32 (&x)[4]) {
    copy_words(codes, x);
  }
  __device__ __forceinline__ static void multiply(int (&sum)[4], const u32 (&a)[4], u32 x0, u32 x1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(x0), "r"(x1));
  }
};

/// 4-bit codes by codes of 8 bits: of every eight columns 0, 4, 1, 5, then 2, 6, 3, 7.
template <> struct Tile<uint4_codes, int8> {
  typedef int Sum;
  static constexpr int kPiece = 128, kSteps = 4, kXWords = 8;
  static constexpr float kOffset = 0.0f, kMiddle = 8.0f;
  u32 a[kSteps][4];

  __device__ __forceinline__ Tile(const u32 (&low)[4], const u32 (&high)[4]) {
    constexpr u32 kLowerHalves = 0x0f0f0f0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      a[i][0] = low[i] & kLowerHalves, a[i][1] = high[i] & kLowerHalves;
      a[i][2] = low[i] >> 4 & kLowerHalves, a[i][3] = high[i] >> 4 & kLowerHalves;
    }
  }
  __device__ __forceinline__ static void expand(const u32 (&words)[8], u32 (&x)[8]) {
    copy_words(words, x);
  }
  __device__ __forceinline__ static void multiply(int (&sum)[4], const u32 (&a)[4], u32 x0, u32 x1) {
    Tile<int8, int8>::multiply(sum, a, x0, x1);
  }
};

/// As 16-bit numbers: what Hopper's mma.sync would do with the codes as well.
template <> struct Tile<e4m3, e4m3> : Tile<e4m3, fp16> {
  static constexpr int kXWords = 4;
  using Tile<e4m3, fp16>::Tile;
  __device__ __forceinline__ static void expand(const u32 (&codes)[4], u32 (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) pairs<e4m3, fp16>(codes[i], x[2 * i], x[2 * i + 1]);
  }
};
