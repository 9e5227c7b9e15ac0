// One warp's share of a decode: the query heads of one key head, all of one token, against tiles of the cache in shared memory.
// Keys are the rows of products on tensor cores and queries their columns, so that nothing is wasted on up to eight heads, and
// codes become numbers in registers. An online softmax as in Dao, "FlashAttention-2", 2023. Lane = 4 · g + c: it works on the
// scores of keys g and g + 8 and queries 8n + 2c and 8n + 2c + 1.
#pragma once
#include "attention-cache.cuh"
#include "attention-score.cuh"

/// Columns that one product takes: 32 bytes of a row, or half of them if they are codes.
constexpr int kStepColumns = 16, kKeySteps = (HEAD_DIM + 15) / 16, kValueSteps = (VALUE_HEAD_DIM + 15) / 16;
constexpr int kStepsAtOnce = kHasCodes ? 2 : 1;

/// 32 bytes of the tile's rows from byte `at` on: the left operands of kStepsAtOnce steps of products with keys.
template <typename Codes = C> __device__ __forceinline__ void load_keys(u32 (&a)[kStepsAtOnce][4], const u8* tile, int at) {
  const int lane = threadIdx.x % 32;
  u32 words[4];
  load_tiles(words, tile + tile_piece(lane % 16, at, lane / 16, kKeyRowBytes));
  if constexpr (kHasCodes) {
#pragma unroll
    for (int i = 0; i < 4; i++) pairs<Codes, FACTOR>(words[i], a[i / 2][i % 2], a[i / 2][i % 2 + 2]);
  } else {
    const bool is_half = at + 16 >= kKeyRowBytes;
    a[0][0] = words[0], a[0][1] = words[1], a[0][2] = is_half ? 0 : words[2], a[0][3] = is_half ? 0 : words[3];
  }
}

/// The same of values, whose columns are the product's rows.
template <typename Codes = C> __device__ __forceinline__ void load_values(u32 (&a)[kStepsAtOnce][4], const u8* tile, int at) {
  const int lane = threadIdx.x % 32;
  u32 words[4];
  load_tiles_transposed(words, tile + tile_piece(lane % 16, at, lane / 16, kValueRowBytes));
  if constexpr (kHasCodes) {
#pragma unroll
    for (int i = 0; i < 4; i++) crossed_pairs<Codes, FACTOR>(words[i], a[i / 2][i % 2 * 2], a[i / 2][i % 2 * 2 + 1]);
  } else {
    a[0][0] = words[0], a[0][1] = words[2], a[0][2] = words[1], a[0][3] = words[3];
  }
}

/// The column of values that row g, or g + 8 (1), of step `step` stands for; columns of codes come in pairs.
__device__ __forceinline__ int value_column(int step, int half) {
  const int g = threadIdx.x % 32 / 4;
  return step * kStepColumns + (kHasCodes ? 2 * g + half : g + 8 * half);
}

/// f(n, j) of the lane's queries 8n + 2c + j.
template <int kCount, typename F> __device__ __forceinline__ void each_query(F f) {
#pragma unroll
  for (int n = 0; n < kCount; n++) f(n, 0), f(n, 1);
}

/// Eight queries for each of kCount.
template <int kCount> struct GroupAttention {
  u32 query[kKeySteps][kCount][2];
  float unit[kCount][2];  // of the queries, see QueryUnit
  float sum[kValueSteps][kCount][4];
  float top[kCount][2], total[kCount][2];  // until `finish` tops are scores, and lanes total their keys
  float value_unit;                        // a power of two that scales of values are divided by

  /// `row_of(i)`: HEAD_DIM elements of query i, or null.
  template <typename F> __device__ __forceinline__ void start(F row_of) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kCount; n++) {
      const X* row = row_of(8 * n + lane / 4);
      float absmax = 0.0f;
#pragma unroll
      for (int i = 0; i < 2 * kKeySteps; i++) {
        const int column = i / 2 * kStepColumns + (kHasCodes ? lane % 4 * 4 + i % 2 * 2 : lane % 4 * 2 + i % 2 * 8);
        u32& pair = query[i / 2][n][i % 2];
        pair = row && column < HEAD_DIM ? *reinterpret_cast<const u32*>(row + column) : 0;
        if constexpr (!QueryUnit::kIsOne) absmax = fmaxf(absmax, QueryUnit::absmax(pair));
      }
      unit[n][0] = unit[n][1] = 1.0f;
      if constexpr (!QueryUnit::kIsOne) {
        absmax = fmaxf(absmax, __shfl_xor_sync(0xffffffffu, absmax, 1));
        const QueryUnit own(fmaxf(absmax, __shfl_xor_sync(0xffffffffu, absmax, 2)));
#pragma unroll
        for (int i = 0; i < 2 * kKeySteps; i++) query[i / 2][n][i % 2] = own.divide(query[i / 2][n][i % 2]);
#pragma unroll
        for (int j = 0; j < 2; j++) unit[n][j] = __shfl_sync(0xffffffffu, own.value, 4 * (lane % 4 * 2 + j));
      }
#pragma unroll
      for (int i = 0; i < kValueSteps; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][n][j] = 0.0f;
    }
    each_query<kCount>([&](int n, int j) { top[n][j] = -INFINITY, total[n][j] = 0.0f; });
    value_unit = 0x1p-24f;  // the least scale
  }

  /// Tiles of keys and values, whose first key is `first_key`: several at once keep more products under way. `rule_of(i)`: of
  /// query i; `position`: the last key that is seen.
  template <int kTiles, typename R>
  __device__ __forceinline__ void attend(u8* const (&tiles)[kTiles], int first_key, R rule_of, int position) {
    float scores[kTiles][kCount][4], keep[kCount][2];
#pragma unroll
    for (int t = 0; t < kTiles; t++) multiply_keys(scores[t], tiles[t]);
    weigh(scores, keep, first_key, rule_of, position);
    rescale(keep);
#pragma unroll
    for (int t = 0; t < kTiles; t++) {
      const u8* values = tiles[t] + kKeyTileBytes;
      if constexpr (kHasScales) scale_weights(scores[t], scales_of(values, kValueRowBytes));
      add_values(scores[t], values);
    }
  }

  /// Completes the totals; tops become binary logarithms.
  template <typename R> __device__ __forceinline__ void finish(R rule_of) {
    each_query<kCount>([&](int n, int j) {
      top[n][j] *= own_rule(rule_of, n, j).unit();
      total[n][j] = reduce_keys(total[n][j], Sum());
    });
    if constexpr (kHasScales) scale_sums(value_unit);
  }

  /// Which query the lane's (n, j) is.
  static __device__ __forceinline__ int query_of(int n, int j) { return 8 * n + threadIdx.x % 4 * 2 + j; }

  /// The weighted sums of the lane's columns for its query (n, j): f(step, sum of row g, sum of row g + 8).
  template <typename F> __device__ __forceinline__ void each_sum(int n, int j, F f) const {
#pragma unroll
    for (int i = 0; i < kValueSteps; i++) f(i, sum[i][n][j], sum[i][n][2 + j]);
  }

  /// What sums become results by, where nobody else has a part of them. `sink`: a binary logarithm.
  __device__ __forceinline__ float result_factor(int n, int j, float sink) const {
    const float largest = fmaxf(top[n][j], sink), share = exp2_fast(top[n][j] - largest);
    return share / (total[n][j] * share + exp2_fast(sink - largest));
  }

 private:
  /// Over the lanes that have the same queries.
  template <typename F> static __device__ __forceinline__ float reduce_keys(float value, F f) {
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) value = f(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
  }

  template <typename R> __device__ __forceinline__ ScoreRule own_rule(R rule_of, int n, int j) const {
    ScoreRule rule = rule_of(query_of(n, j));
    if constexpr (!QueryUnit::kIsOne) rule.scale *= unit[n][j];
    return rule;
  }

  /// f(step, eight queries, left operand of the step) for kSteps steps through a tile; load(operands, first byte).
  template <int kSteps, typename L, typename F> static __device__ __forceinline__ void each_product(L load, F f) {
#pragma unroll
    for (int step = 0; step < kSteps; step += kStepsAtOnce) {
      u32 a[kStepsAtOnce][4];
      load(a, step / kStepsAtOnce * 32);
#pragma unroll
      for (int i = 0; i < kStepsAtOnce && step + i < kSteps; i++)
#pragma unroll
        for (int n = 0; n < kCount; n++) f(step + i, n, a[i]);
    }
  }

  __device__ __forceinline__ void multiply_keys(float (&scores)[kCount][4], const u8* keys) {
    // Two sums, since each product waits for the one before on its sum.
    float parts[2][kCount][4] = {};
    const auto load = [&](u32 (&a)[kStepsAtOnce][4], int at) { load_keys(a, keys, at); };
    each_product<kKeySteps>(load, [&](int step, int n, const u32 (&a)[4]) {
      mma<FACTOR>(parts[step % 2][n], a, query[step][n][0], query[step][n][1]);
    });
#pragma unroll
    for (int n = 0; n < kCount; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) scores[n][i] = parts[0][n][i] + parts[1][n][i];
    if constexpr (kHasScales) {
      const fp16* scales = scales_of(keys, kKeyRowBytes) + threadIdx.x % 32 / 4;
      const float scale[2] = {to_float(scales[0]), to_float(scales[8])};
#pragma unroll
      for (int n = 0; n < kCount; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] *= scale[i / 2];
    }
  }

  /// Turns products into weights. `keep`: what sums so far are to be multiplied with.
  template <int kTiles, typename R>
  __device__ __forceinline__ void weigh(float (&scores)[kTiles][kCount][4], float (&keep)[kCount][2], int first_key, R rule_of,
                                        int position) {
    const int distance = position - first_key - int(threadIdx.x) % 32 / 4;
    each_query<kCount>([&](int n, int j) {
      const ScoreRule rule = own_rule(rule_of, n, j);
      const float unit = rule.unit();
      float largest = top[n][j];
#pragma unroll
      for (int i = 0; i < 2 * kTiles; i++) {
        float& score = scores[i / 2][n][i % 2 * 2 + j];
        score = rule.sees(distance - 8 * i) ? rule.score(score, distance - 8 * i) : -INFINITY;
        largest = fmaxf(largest, score);
      }
      largest = reduce_keys(largest, Max());
      const float offset = largest == -INFINITY ? 0.0f : largest * unit;
      keep[n][j] = exp2_fast(top[n][j] * unit - offset);
      top[n][j] = largest;
      total[n][j] *= keep[n][j];
#pragma unroll
      for (int i = 0; i < 2 * kTiles; i++) {
        float& score = scores[i / 2][n][i % 2 * 2 + j];
        score = exp2_fast(score * unit - offset);
        total[n][j] += score;
      }
    });
  }

  __device__ __forceinline__ void rescale(const float (&keep)[kCount][2]) {
    bool is_kept = true;
    each_query<kCount>([&](int n, int j) { is_kept = is_kept && keep[n][j] == 1.0f; });
    // Tops seldom rise once a few keys have been seen.
    if (__all_sync(0xffffffffu, is_kept)) return;
#pragma unroll
    for (int i = 0; i < kValueSteps; i++)
      each_query<kCount>([&](int n, int j) { sum[i][n][j] *= keep[n][j], sum[i][n][2 + j] *= keep[n][j]; });
  }

  /// Weights of values times their scales, in units that fp16 holds: the largest scale so far, rounded up to a power of two.
  __device__ __forceinline__ void scale_weights(float (&weights)[kCount][4], const fp16* scales) {
    const int g = threadIdx.x % 32 / 4;
    const float low = to_float(scales[g]), high = to_float(scales[g + 8]), largest = fmaxf(low, high);
    if (__any_sync(0xffffffffu, largest > value_unit)) {
      const float power = __uint_as_float(__float_as_uint(reduce_keys(largest, Max())) + 0x7fffff & 0x7f800000);
      scale_sums(value_unit * inverse_power(power));
      value_unit = power;
    }
    const float inverse = inverse_power(value_unit);
#pragma unroll
    for (int n = 0; n < kCount; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) weights[n][i] *= (i < 2 ? low : high) * inverse;
  }

  __device__ __forceinline__ void scale_sums(float factor) {
#pragma unroll
    for (int i = 0; i < kValueSteps; i++)
#pragma unroll
      for (int n = 0; n < kCount; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][n][j] *= factor;
  }

  __device__ __forceinline__ void add_values(const float (&weights)[kCount][4], const u8* values) {
    u32 b[kCount][2];
#pragma unroll
    for (int n = 0; n < kCount; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) b[n][i] = transpose(pack<FACTOR>(weights[n][2 * i], weights[n][2 * i + 1]));
    const auto load = [&](u32 (&a)[kStepsAtOnce][4], int at) { load_values(a, values, at); };
    each_product<kValueSteps>(load, [&](int step, int n, const u32 (&a)[4]) { mma<FACTOR>(sum[step][n], a, b[n][0], b[n][1]); });
  }
};
