// One warp's share of flash attention (Dao, "FlashAttention-2", 2023): 16 rows of queries against tiles of keys in shared
// memory, on tensor cores. C: 16-bit type of activations and cache, W: of sinks, which take part in a softmax without a value.
#pragma once
#include "attention-score.cuh"
#include "kv-tile.cuh"
#include "mma.cuh"

__device__ constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int kKeyDim = round_up(HEAD_DIM, 16), kValueDim = round_up(VALUE_HEAD_DIM, 16);
constexpr int kKeyRowBytes = HEAD_DIM * int(sizeof(C)), kValueRowBytes = VALUE_HEAD_DIM * int(sizeof(C));
constexpr int kKeyTileBytes = kTileRows * kKeyRowBytes, kValueTileBytes = kTileRows * kValueRowBytes;

constexpr int kTilesPerBlock = BLOCK_SIZE / kTileRows;

/// First element of a tile in the cache; `tile` counts from the sequence's first token, `block` holds it.
__device__ __forceinline__ i64 tile_in_block(i64 block, int tile, int head, int num_heads, int head_dim) {
  return head_start(block, head, num_heads, head_dim) + tile % kTilesPerBlock * kTileRows * head_dim;
}
__device__ __forceinline__ i64 tile_start(const int* block_table, int tile, int head, int num_heads, int head_dim) {
  return tile_in_block(block_table[tile / kTilesPerBlock], tile, head, num_heads, head_dim);
}

/// Zeros in rows `first_row` and up of a tile of values: what lies behind a sequence's end may be no number.
__device__ __forceinline__ void clear_values(u8* tile, int first_row, int thread, int num_threads) {
  constexpr int kPieces = kValueRowBytes / 16;
  for (int i = thread; i < (kTileRows - first_row) * kPieces; i += num_threads) {
    const int byte = tile_byte(first_row + i / kPieces, i % kPieces * 16, kValueRowBytes);
    *reinterpret_cast<uint4*>(tile + byte) = make_uint4(0, 0, 0, 0);
  }
}

/// Columns 16k to 16k + 15 of a tile of keys as right operands: of keys 0 to 7, then of keys 8 to 15.
__device__ __forceinline__ void load_keys(u32 (&operands)[4], const u8* tile, int k) {
  const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8;
  load_tiles(operands, tile + tile_piece(row, 32 * k, lane / 8 % 2, kKeyRowBytes));
  if (16 * k + 8 >= HEAD_DIM) operands[1] = operands[3] = 0;
}

/// Columns 16d to 16d + 15 of a tile of values as right operands: of columns 0 to 7, then of columns 8 to 15.
__device__ __forceinline__ void load_values(u32 (&operands)[4], const u8* tile, int d) {
  const int lane = threadIdx.x % 32;
  load_tiles_transposed(operands, tile + tile_piece(lane % 16, 32 * d, lane / 16, kValueRowBytes));
}

/// kHalves: 1 if only rows 0 to 7 of the 16 are wanted; kColumns: of values.
template <int kHalves, int kColumns = kValueDim> struct WarpAttention {
  u32 query[kKeyDim / 16][4];
  float sum[kColumns / 8][4];
  float top[kHalves], total[kHalves];  // of rows g and g + 8; until `finish` tops are scores, and lanes total their columns

  /// `row_of(half)`: HEAD_DIM elements of queries of rows g (0) and g + 8 (1), or null.
  template <typename F> __device__ __forceinline__ void start(F row_of) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const C* row = half < kHalves ? row_of(half) : nullptr;
#pragma unroll
      for (int i = 0; i < kKeyDim / 8; i++) {
        const bool is_there = row && 8 * i < HEAD_DIM;
        query[i / 2][i % 2 * 2 + half] = is_there ? *reinterpret_cast<const u32*>(row + 8 * i + threadIdx.x % 4 * 2) : 0;
      }
    }
    clear();
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kColumns / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) sum[i][j] = 0.0f;
#pragma unroll
    for (int half = 0; half < kHalves; half++) top[half] = -INFINITY, total[half] = 0.0f;
  }

  /// kTiles tiles of keys from `first_key` on. `rule_of(half)` and `position_of(half)` tell of rows g and g + 8.
  template <int kTiles, bool kMasked, typename R, typename P>
  __device__ __forceinline__ void attend(const u8* keys, const u8* values, int first_key, R rule_of, P position_of) {
    float scores[2 * kTiles][4];
    multiply_keys<kTiles>(scores, keys);
    float keep[kHalves];
    weigh<2 * kTiles, kMasked>(scores, keep, first_key, rule_of, position_of);
    rescale(keep);
    add_values<kTiles>(scores, values);
  }

  /// Turns products of queries and 8 · kCount keys into weights. `keep`: what sums so far are to be multiplied with.
  template <int kCount, bool kMasked, typename R, typename P>
  __device__ __forceinline__ void weigh(float (&scores)[kCount][4], float (&keep)[kHalves], int first_key, R rule_of,
                                        P position_of) {
    const int column = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < kHalves; half++) {
      const ScoreRule rule = rule_of(half);
      const int position = position_of(half);
      const float old_top = top[half], unit = rule.unit();
      float largest = old_top;
#pragma unroll
      for (int i = 0; i < kCount; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const int distance = position - (column + 8 * i + j);
          float& score = scores[i][2 * half + j];
          score = !kMasked || rule.sees(distance) ? rule.score(score, distance) : -INFINITY;
          largest = fmaxf(largest, score);
        }
      largest = quad_max(largest);
      const float offset = largest == -INFINITY ? 0.0f : largest * unit;
      keep[half] = exp2_fast(old_top * unit - offset);
      top[half] = largest;
      total[half] *= keep[half];
#pragma unroll
      for (int i = 0; i < kCount; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float& score = scores[i][2 * half + j];
          score = exp2_fast(score * unit - offset);
          total[half] += score;
        }
    }
  }

  __device__ __forceinline__ void rescale(const float (&keep)[kHalves]) {
    // Tops seldom rise once a few keys have been seen.
    if (__all_sync(0xffffffffu, keep[0] == 1.0f && keep[kHalves - 1] == 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kColumns / 8; i++)
#pragma unroll
      for (int half = 0; half < kHalves; half++) sum[i][2 * half] *= keep[half], sum[i][2 * half + 1] *= keep[half];
  }

  /// Completes the totals; tops become binary logarithms.
  template <typename R> __device__ __forceinline__ void finish(R rule_of) {
#pragma unroll
    for (int half = 0; half < kHalves; half++) {
      top[half] *= rule_of(half).unit();
      total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
      total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
    }
  }

  /// Results of rows g (0) or g + 8 (1), two columns at a time: f(column, value, value). `sink`: a binary logarithm.
  template <typename F> __device__ __forceinline__ void results(int half, float sink, F f) const {
    const float largest = fmaxf(top[half], sink);
    const float share = exp2_fast(top[half] - largest);
    const float factor = share / (total[half] * share + exp2_fast(sink - largest));
#pragma unroll
    for (int i = 0; i < (kColumns < VALUE_HEAD_DIM ? kColumns : VALUE_HEAD_DIM) / 8; i++)
      f(8 * i + threadIdx.x % 4 * 2, sum[i][2 * half] * factor, sum[i][2 * half + 1] * factor);
  }

 private:
  static __device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
  }

  template <int kTiles> __device__ __forceinline__ void multiply_keys(float (&scores)[2 * kTiles][4], const u8* keys) {
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) scores[2 * n][j] = scores[2 * n + 1][j] = 0.0f;
#pragma unroll
      for (int k = 0; k < kKeyDim / 16; k++) {
        u32 b[4];
        load_keys(b, keys + n * kKeyTileBytes, k);
        mma<C>(scores[2 * n], query[k], b[0], b[1]);
        mma<C>(scores[2 * n + 1], query[k], b[2], b[3]);
      }
    }
  }

  template <int kTiles> __device__ __forceinline__ void add_values(const float (&weights)[2 * kTiles][4], const u8* values) {
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
      u32 a[4];
      pack_weights(a, weights[2 * n], weights[2 * n + 1]);
#pragma unroll
      for (int d = 0; d < kValueDim / 16; d++) {
        u32 b[4];
        load_values(b, values + n * kValueTileBytes, d);
        mma<C>(sum[2 * d], a, b[0], b[1]);
        mma<C>(sum[2 * d + 1], a, b[2], b[3]);
      }
    }
  }

 public:
  /// Weights of 16 keys as the left operand of the product with their values.
  static __device__ __forceinline__ void pack_weights(u32 (&a)[4], const float (&low)[4], const float (&high)[4]) {
    a[0] = pack<C>(low[0], low[1]);
    a[1] = kHalves > 1 ? pack<C>(low[2], low[3]) : 0;
    a[2] = pack<C>(high[0], high[1]);
    a[3] = kHalves > 1 ? pack<C>(high[2], high[3]) : 0;
  }
};
