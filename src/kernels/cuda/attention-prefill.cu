// attention of sequences with several queries in the step: a block per 64 queries and head, its warps share tiles of keys.
// TILES: tiles of 16 keys that are worked on at once, STAGES: such groups in shared memory.
#include "attention-tile.cuh"
#include "query-tiles.cuh"

constexpr int kWarps = 4, kThreads = 32 * kWarps, kQueries = 16 * kWarps, kKeys = kTileRows * TILES;
constexpr int kFactorBytes = kHasCodes ? TILES * (kKeyFactorBytes + kValueFactorBytes) : 0;

/// Grid [2 · query tiles, heads]: halves of tiles of 128 queries, those that see most first.
extern "C" __global__ void __launch_bounds__(kThreads)
    attention_prefill(const int* num_query_tiles, const Queries* query_tiles, const X* q, i64 q_stride, Y* y, i64 y_stride,
                      const C* keys, const C* values, const float* y_calibrated, int num_y_calibrated, float* y_scales,
                      i64 y_scales_stride, const int* block_tables, const int* max_blocks_per_seq,
                      const float* slopes, const W* sinks, int num_heads, int num_kv_heads, float scale, float softcap, int window) {
  extern __shared__ __align__(1024) u8 memory[];  // of codes a group's factors; [STAGES][TILES keys, TILES values]
  const int query_tile = blockIdx.x / 2;
  let_next_start();
  wait_for_previous();
  if (query_tile >= *num_query_tiles) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
  Queries queries = query_tiles[query_tile];
  queries.first += (1 - blockIdx.x % 2) * kQueries;
  const int first = queries.first, end = queries.end, past = queries.past, last = queries.last_position(kQueries);
  if (first >= end) return;
  const int* block_table = block_tables + i64(queries.seq) * *max_blocks_per_seq;
  const int kv_head = head / (num_heads / num_kv_heads);
  const ScoreRule rule{scale, softcap, ALIBI ? slopes[head] : 0.0f, window};
  const auto keys_at = [&](int stage) { return memory + kFactorBytes + stage * TILES * (kKeyTileBytes + kValueTileBytes); };
  const auto values_at = [&](int stage) { return keys_at(stage) + TILES * kKeyTileBytes; };

  const int first_group = rule.first_visible(first + past) / kKeys, last_group = last / kKeys;
  const auto copy_group = [&](int group) {
    const int stage = (group - first_group) % STAGES;
    for (int i = 0; i < TILES; i++) {
      const int tile = group * TILES + i;
      if (tile > last / kTileRows) break;
      const C* key_tile = keys + tile_start(block_table, tile, kv_head, num_kv_heads, HEAD_DIM);
      const C* value_tile = values + tile_start(block_table, tile, kv_head, num_kv_heads, VALUE_HEAD_DIM);
      for (int at = threadIdx.x * 16; at < kKeyTileBytes; at += kThreads * 16)
        copy_async(keys_at(stage) + i * kKeyTileBytes + at, key_tile + at / int(sizeof(C)), true);
      for (int at = threadIdx.x * 16; at < kValueTileBytes; at += kThreads * 16)
        copy_async(values_at(stage) + i * kValueTileBytes + at, value_tile + at / int(sizeof(C)), true);
    }
    commit_copies();
  };

  WarpAttention<> attention;
  const int position = first + past + warp * 16 + lane / 4;
  for (int group = first_group; group < first_group + STAGES - 1; group++) copy_group(group);
  attention.start([&](int half) {
    const int token = position - past + 8 * half;
    return token < end ? q + token * q_stride + head * HEAD_DIM : nullptr;
  });
  const auto rule_of = [&](int) { return rule; };
  const auto position_of = [&](int half) { return position + 8 * half; };
  for (int group = first_group; group <= last_group; group++) {
    copy_group(group + STAGES - 1);
    wait_copies<STAGES - 1>();
    __syncthreads();
    const int stage = (group - first_group) % STAGES, first_key = group * kKeys;
    const u8* group_keys = keys_at(stage);
    const u8* group_values = values_at(stage);
    if constexpr (kHasCodes) {
      u8* value_factors = memory + TILES * kKeyFactorBytes;
      const int num_seen = last + 1 - first_key;
      widen_tiles<TILES, kKeyRowBytes, kThreads>(group_keys, kKeyTileBytes, num_seen, [&](int t, int row, int at) {
        return memory + t * kKeyFactorBytes + tile_byte(row, at, kKeyFactorRowBytes);
      });
      widen_tiles<TILES, kValueRowBytes, kThreads>(group_values, kValueTileBytes, num_seen, [&](int t, int row, int at) {
        return value_factors + t * kValueFactorBytes + tile_byte(row, at, kValueFactorRowBytes);
      });
      group_keys = memory, group_values = value_factors;
      __syncthreads();
    } else if (first_key + kKeys > last + 1) {
      for (int i = 0; i < TILES; i++) {
        const int num_seen = max(0, last + 1 - first_key - i * kTileRows);
        if (num_seen < kTileRows) clear_values(values_at(stage) + i * kValueTileBytes, num_seen, threadIdx.x, kThreads);
      }
      __syncthreads();
    }
    const bool all_seen = first_key + kKeys <= first + past + 1 && rule.first_visible(last) <= first_key;
    if (all_seen)
      attention.template attend<TILES, false>(group_keys, group_values, first_key, rule_of, position_of);
    else
      attention.template attend<TILES, true>(group_keys, group_values, first_key, rule_of, position_of);
    __syncthreads();
  }

  attention.finish(rule_of);
  const Output output{y, y_stride, y_calibrated, num_y_calibrated, y_scales, y_scales_stride};
  attention.write(sinks ? to_float(sinks[head]) * kLog2E : -INFINITY, output, head, end,
                  [&](int half) { return position - past + 8 * half; });
}
