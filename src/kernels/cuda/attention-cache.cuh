// Keys and values as tensor cores get them: tiles of the cache in shared memory, and queries of the type that they are
// multiplied in. X: the activations' type, C: the cache's, FACTOR: that of products, of 16 bits: X, or fp16 for codes, which it
// holds exactly.
#pragma once
#include "kv-tile.cuh"
#include "mma.cuh"

__device__ constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

constexpr bool kHasCodes = sizeof(C) == 1, kHasScales = kScaleBytes<C> > 0;
constexpr int kKeyRowBytes = HEAD_DIM * int(sizeof(C)), kValueRowBytes = VALUE_HEAD_DIM * int(sizeof(C));
constexpr int kKeyTileBytes = kTileRows * (kKeyRowBytes + kScaleBytes<C>);
constexpr int kValueTileBytes = kTileRows * (kValueRowBytes + kScaleBytes<C>);

constexpr int kTilesPerBlock = BLOCK_SIZE / kTileRows;

/// First element of a tile in the cache; `tile` counts from the sequence's first token, `block` holds it.
__device__ __forceinline__ i64 tile_in_block(i64 block, int tile, int head, int num_heads, int head_dim) {
  return head_start<C>(block, head, num_heads, head_dim) + tile % kTilesPerBlock * kTileRows * row_elements<C>(head_dim);
}
__device__ __forceinline__ i64 tile_start(const int* block_table, int tile, int head, int num_heads, int head_dim) {
  return tile_in_block(block_table[tile / kTilesPerBlock], tile, head, num_heads, head_dim);
}

/// Scales of a tile's rows; `row_bytes`: of its codes.
__device__ __forceinline__ fp16* scales_of(u8* tile, int row_bytes) {
  return reinterpret_cast<fp16*>(tile + kTileRows * row_bytes);
}
__device__ __forceinline__ const fp16* scales_of(const u8* tile, int row_bytes) {
  return reinterpret_cast<const fp16*>(tile + kTileRows * row_bytes);
}

/// Zeros in rows `first_row` and up of a tile of values: what lies behind a sequence's end may be no number.
__device__ __forceinline__ void clear_values(u8* tile, int first_row, int thread, int num_threads) {
  constexpr int kPieces = kValueRowBytes / 16;
  // Seldom, and not worth registers.
#pragma unroll 1
  for (int i = thread; i < (kTileRows - first_row) * kPieces; i += num_threads) {
    const int byte = tile_byte(first_row + i / kPieces, i % kPieces * 16, kValueRowBytes);
    *reinterpret_cast<uint4*>(tile + byte) = make_uint4(0, 0, 0, 0);
  }
  if constexpr (kHasScales)
    if (thread < kTileRows - first_row) scales_of(tile, kValueRowBytes)[first_row + thread] = {0};
}

template <typename A, typename B> constexpr bool kIsSame = false;
template <typename A> constexpr bool kIsSame<A, A> = true;

/// 1 / x of a power of two.
__device__ __forceinline__ float inverse_power(float x) { return __uint_as_float(0x7f000000 - __float_as_uint(x)); }

/// A power of two that a query is divided by, so that fp16 holds what bf16 did.
struct QueryUnit {
  static constexpr bool kIsOne = kIsSame<X, FACTOR>;
  float value;

  /// From the largest magnitude of the query.
  __device__ __forceinline__ explicit QueryUnit(float absmax = 1.0f) {
    value = kIsOne ? 1.0f : fmaxf(__uint_as_float(__float_as_uint(absmax) & 0x7f800000), 0x1p-60f);
  }

  /// Two numbers of the query as factors.
  __device__ __forceinline__ u32 divide(u32 pair) const {
    if constexpr (kIsOne) return pair;
    const float inverse = inverse_power(value);
    return pack<FACTOR>(to_float(X{u16(pair)}) * inverse, to_float(X{u16(pair >> 16)}) * inverse);
  }

  static __device__ __forceinline__ float absmax(u32 pair) {
    return fmaxf(fabsf(to_float(X{u16(pair)})), fabsf(to_float(X{u16(pair >> 16)})));
  }
};
