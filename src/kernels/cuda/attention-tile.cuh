// One warp's share of flash attention (Dao, "FlashAttention-2", 2023): 16 rows of queries against tiles of keys in shared
// memory, on tensor cores. C: 16-bit type of activations and cache, W: of sinks, which take part in a softmax without a value.
#pragma once
#include "attention-score.cuh"
#include "mma.cuh"

__device__ constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int kKeyDim = round_up(HEAD_DIM, 16), kValueDim = round_up(VALUE_HEAD_DIM, 16);
/// Elements from row to row in shared memory: 16 bytes more than the data, so that eight rows lie in different banks.
constexpr int kKeyStride = kKeyDim + 8, kValueStride = kValueDim + 8;
constexpr float kLog2E = 1.4426950408889634f;

/// Copies rows of `head_dim` elements to shared memory in 16-byte pieces, zeros behind them and for rows that are not valid.
/// `row_at(row)` gives a row's address or null. Threads `thread` of `num_threads` work together.
template <int kRows, int kHeadDim, int kPaddedDim, int kStride, typename F>
__device__ __forceinline__ void copy_rows(C* target, const C* fallback, int thread, int num_threads, F row_at) {
  constexpr int kPieces = kPaddedDim / 8;
  for (int i = thread; i < kRows * kPieces; i += num_threads) {
    const int row = i / kPieces, d = i % kPieces * 8;
    const C* source = row_at(row);
    const bool is_valid = source != nullptr && d < kHeadDim;
    copy_async(target + row * kStride + d, is_valid ? source + d : fallback, is_valid);
  }
}

struct WarpAttention {
  u32 query[kKeyDim / 16][4];
  float sum[kValueDim / 8][4];
  float top[2], total[2];  // of rows g and g + 8; each lane totals its own columns until `finish`

  /// `rows`: 16 rows of queries in shared memory.
  __device__ __forceinline__ void start(const C* rows) {
    const int lane = threadIdx.x % 32;
    const C* row = rows + (lane / 8 % 2 * 8 + lane % 8) * kKeyStride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < kKeyDim / 16; k++) load_tiles(query[k], row + 16 * k);
#pragma unroll
    for (int i = 0; i < kValueDim / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) sum[i][j] = 0.0f;
    top[0] = top[1] = -INFINITY;
    total[0] = total[1] = 0.0f;
  }

  /// kKeys keys from `first_key` on. `rule_of(half)` and `position_of(half)` tell of rows g (0) and g + 8 (1).
  template <int kKeys, typename R, typename P>
  __device__ __forceinline__ void attend(const C* keys, const C* values, int first_key, R rule_of, P position_of) {
    float scores[kKeys / 8][4];
    multiply_keys<kKeys>(scores, keys);
    const int column = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const ScoreRule rule = rule_of(half);
      const int position = position_of(half);
      float largest = top[half];
#pragma unroll
      for (int i = 0; i < kKeys / 8; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float& score = scores[i][2 * half + j];
          score = rule(score, position, column + 8 * i + j);
          largest = fmaxf(largest, score);
        }
      rescale(half, quad_max(largest));
#pragma unroll
      for (int i = 0; i < kKeys / 8; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float& score = scores[i][2 * half + j];
          score = top[half] == -INFINITY ? 0.0f : exp2f((score - top[half]) * kLog2E);
          total[half] += score;
        }
    }
    add_values<kKeys>(scores, values);
  }

  /// Completes the totals.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
      total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
    }
  }

 private:
  static __device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
  }

  template <int kKeys> __device__ __forceinline__ void multiply_keys(float (&scores)[kKeys / 8][4], const C* keys) {
    const int lane = threadIdx.x % 32;
    const C* row = keys + (lane / 16 * 8 + lane % 8) * kKeyStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < kKeys / 16; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) scores[2 * n][j] = scores[2 * n + 1][j] = 0.0f;
#pragma unroll
      for (int k = 0; k < kKeyDim / 16; k++) {
        u32 tiles[4];
        load_tiles(tiles, row + n * 16 * kKeyStride + 16 * k);
        mma<C>(scores[2 * n], query[k], tiles[0], tiles[1]);
        mma<C>(scores[2 * n + 1], query[k], tiles[2], tiles[3]);
      }
    }
  }

  __device__ __forceinline__ void rescale(int half, float new_top) {
    const float keep = new_top == -INFINITY ? 1.0f : exp2f((top[half] - new_top) * kLog2E);
    top[half] = new_top;
    total[half] *= keep;
#pragma unroll
    for (int i = 0; i < kValueDim / 8; i++) sum[i][2 * half] *= keep, sum[i][2 * half + 1] *= keep;
  }

  template <int kKeys> __device__ __forceinline__ void add_values(const float (&weights)[kKeys / 8][4], const C* values) {
    const int lane = threadIdx.x % 32;
    const C* row = values + (lane / 8 % 2 * 8 + lane % 8) * kValueStride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < kKeys / 16; k++) {
      const float(&low)[4] = weights[2 * k];
      const float(&high)[4] = weights[2 * k + 1];
      const u32 a[4] = {pack<C>(low[0], low[1]), pack<C>(low[2], low[3]), pack<C>(high[0], high[1]),
                        pack<C>(high[2], high[3])};
#pragma unroll
      for (int d = 0; d < kValueDim / 16; d++) {
        u32 tiles[4];
        load_tiles_transposed(tiles, row + k * 16 * kValueStride + 16 * d);
        mma<C>(sum[2 * d], a, tiles[0], tiles[1]);
        mma<C>(sum[2 * d + 1], a, tiles[2], tiles[3]);
      }
    }
  }
};
