// One warp's share of flash attention (Dao, "FlashAttention-2", 2023): 16 rows of queries against tiles of keys in shared
// memory, on tensor cores. Tiles of codes are widened to FACTOR's before. W: type of sinks, which take part in a softmax without
// a value.
#pragma once
#include "attention-cache.cuh"
#include "attention-output.cuh"
#include "attention-score.cuh"

constexpr int kKeyDim = round_up(HEAD_DIM, 16), kValueDim = round_up(VALUE_HEAD_DIM, 16);
/// Of tiles of factors: those of the cache, if it has no codes.
constexpr int kKeyFactorRowBytes = HEAD_DIM * 2, kValueFactorRowBytes = VALUE_HEAD_DIM * 2;
constexpr int kKeyFactorBytes = kTileRows * kKeyFactorRowBytes, kValueFactorBytes = kTileRows * kValueFactorRowBytes;

/// Makes factors of kTiles tiles of codes, `stride` bytes apart; zeros in rows `num_rows` and up. `place(tile, row, at)`: where
/// byte `at` of a row of factors goes. Sixteen neighbouring threads take a row each.
template <int kTiles, int kRowBytes, int kNumThreads, typename Codes = C, typename P>
__device__ __forceinline__ void widen_tiles(const u8* tiles, int stride, int num_rows, P place) {
  constexpr int kPieces = kRowBytes / 16, kAtOnce = kNumThreads / kTileRows;
  const int row = threadIdx.x % kTileRows;
#pragma unroll 4
  for (int i = threadIdx.x / kTileRows; i < kTiles * kPieces; i += kAtOnce) {
    const int t = i / kPieces, at = i % kPieces * 16;
    const u8* tile = tiles + t * stride;
    const uint4 codes = *reinterpret_cast<const uint4*>(tile + tile_byte(row, at, kRowBytes));
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
    u32 factors[8];
#pragma unroll
    for (int k = 0; k < 4; k++) pairs<Codes, FACTOR>(words[k], factors[2 * k], factors[2 * k + 1]);
    if constexpr (kHasScales) {
      const u32 scale = scales_of(tile, kRowBytes)[row].bits;
#pragma unroll
      for (int k = 0; k < 8; k++) factors[k] = multiply_add<FACTOR>(factors[k], scale << 16 | scale, 0x80008000);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) factors[k] = t * kTileRows + row < num_rows ? factors[k] : 0;
    *reinterpret_cast<uint4*>(place(t, row, 2 * at)) = make_uint4(factors[0], factors[1], factors[2], factors[3]);
    *reinterpret_cast<uint4*>(place(t, row, 2 * at + 16)) = make_uint4(factors[4], factors[5], factors[6], factors[7]);
  }
}

/// Columns 16k to 16k + 15 of a tile of keys as right operands: of keys 0 to 7, then of keys 8 to 15.
__device__ __forceinline__ void load_keys(u32 (&operands)[4], const u8* tile, int k) {
  const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8;
  load_tiles(operands, tile + tile_piece(row, 32 * k, lane / 8 % 2, kKeyFactorRowBytes));
  if (16 * k + 8 >= HEAD_DIM) operands[1] = operands[3] = 0;
}

/// Columns 16d to 16d + 15 of a tile of values as right operands: of columns 0 to 7, then of columns 8 to 15.
__device__ __forceinline__ void load_values(u32 (&operands)[4], const u8* tile, int d) {
  const int lane = threadIdx.x % 32;
  load_tiles_transposed(operands, tile + tile_piece(lane % 16, 32 * d, lane / 16, kValueFactorRowBytes));
}

/// kColumns: of values.
template <int kColumns = kValueDim> struct WarpAttention {
  u32 query[kKeyDim / 16][4];
  float sum[kColumns / 8][4];
  QueryUnit unit[2];
  float top[2], total[2];  // of rows g and g + 8; until `finish` tops are scores, and lanes total their columns

  /// `row_of(half)`: HEAD_DIM elements of queries of rows g (0) and g + 8 (1), or null.
  template <typename F> __device__ __forceinline__ void start(F row_of) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const X* row = row_of(half);
      float absmax = 0.0f;
#pragma unroll
      for (int i = 0; i < kKeyDim / 8; i++) {
        u32& pair = query[i / 2][i % 2 * 2 + half];
        pair = row && 8 * i < HEAD_DIM ? *reinterpret_cast<const u32*>(row + 8 * i + threadIdx.x % 4 * 2) : 0;
        if constexpr (!QueryUnit::kIsOne) absmax = fmaxf(absmax, QueryUnit::absmax(pair));
      }
      unit[half] = QueryUnit();
      if constexpr (!QueryUnit::kIsOne) {
        unit[half] = QueryUnit(quad_max(absmax));
#pragma unroll
        for (int i = 0; i < kKeyDim / 8; i++) {
          u32& pair = query[i / 2][i % 2 * 2 + half];
          pair = unit[half].divide(pair);
        }
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
    for (int half = 0; half < 2; half++) top[half] = -INFINITY, total[half] = 0.0f;
  }

  /// kTiles tiles of keys from `first_key` on. `rule_of(half)` and `position_of(half)` tell of rows g and g + 8.
  template <int kTiles, bool kMasked, typename R, typename P>
  __device__ __forceinline__ void attend(const u8* keys, const u8* values, int first_key, R rule_of, P position_of) {
    float scores[2 * kTiles][4];
    multiply_keys<kTiles>(scores, keys);
    float keep[2];
    weigh<2 * kTiles, kMasked>(scores, keep, first_key, rule_of, position_of);
    rescale(keep);
    add_values<kTiles>(scores, values);
  }

  /// Turns products of queries and 8 · kCount keys into weights. `keep`: what sums so far are to be multiplied with.
  template <int kCount, bool kMasked, typename R, typename P>
  __device__ __forceinline__ void weigh(float (&scores)[kCount][4], float (&keep)[2], int first_key, R rule_of,
                                        P position_of) {
    const int column = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const ScoreRule rule = own_rule(rule_of, half);
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

  __device__ __forceinline__ void rescale(const float (&keep)[2]) {
    // Tops seldom rise once a few keys have been seen.
    if (__all_sync(0xffffffffu, keep[0] == 1.0f && keep[1] == 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kColumns / 8; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) sum[i][2 * half] *= keep[half], sum[i][2 * half + 1] *= keep[half];
  }

  /// Completes the totals; tops become binary logarithms.
  template <typename R> __device__ __forceinline__ void finish(R rule_of) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      top[half] *= own_rule(rule_of, half).unit();
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

  /// Results of a head, of the tokens `token_of(half)` before `end`.
  template <typename F>
  __device__ __forceinline__ void write(float sink, const Output& output, int head, int end, F token_of) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int token = token_of(half);
      if (token < end)
        results(half, sink, [&](int d, float low, float high) { output.put(token, head, d, {low, high}); });
    }
  }

 private:
  template <typename R> __device__ __forceinline__ ScoreRule own_rule(R rule_of, int half) const {
    ScoreRule rule = rule_of(half);
    if constexpr (!QueryUnit::kIsOne) rule.scale *= unit[half].value;
    return rule;
  }

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
        load_keys(b, keys + n * kKeyFactorBytes, k);
        mma<FACTOR>(scores[2 * n], query[k], b[0], b[1]);
        mma<FACTOR>(scores[2 * n + 1], query[k], b[2], b[3]);
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
        load_values(b, values + n * kValueFactorBytes, d);
        mma<FACTOR>(sum[2 * d], a, b[0], b[1]);
        mma<FACTOR>(sum[2 * d + 1], a, b[2], b[3]);
      }
    }
  }

 public:
  /// Weights of 16 keys as the left operand of the product with their values.
  static __device__ __forceinline__ void pack_weights(u32 (&a)[4], const float (&low)[4], const float (&high)[4]) {
    a[0] = pack<FACTOR>(low[0], low[1]);
    a[1] = pack<FACTOR>(low[2], low[3]);
    a[2] = pack<FACTOR>(high[0], high[1]);
    a[3] = pack<FACTOR>(high[2], high[3]);
  }
};
