// attention of sequences with several queries in the step: a block per 64 queries and head, its warps share tiles of keys.
// KEYS: keys in a tile, STAGES: tiles in shared memory.
#include "attention-tile.cuh"

constexpr int kWarps = 4, kQueries = 16 * kWarps;

/// Grid [query tiles, heads]; `tiles` holds (sequence, first token) pairs.
extern "C" __global__ void __launch_bounds__(kWarps * 32)
    attention_prefill(const int* num_tiles, const int* tiles, const C* q, i64 q_stride, C* y, i64 y_stride, const C* keys,
                      const C* values, const int* block_tables, const int* max_blocks_per_seq,
                      const int* cu_seqlens_q, const int* context_lens, const float* slopes, const W* sinks,
                      int num_heads, int num_kv_heads, float scale, float softcap, int window) {
  extern __shared__ __align__(16) u8 memory[];
  C* shared_keys = reinterpret_cast<C*>(memory);                 // [STAGES][KEYS][kKeyStride]
  C* shared_values = shared_keys + STAGES * KEYS * kKeyStride;  // [STAGES][KEYS][kValueStride]
  if (blockIdx.x >= *num_tiles) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int seq = tiles[2 * blockIdx.x], first = tiles[2 * blockIdx.x + 1], head = blockIdx.y;
  const int end = cu_seqlens_q[seq + 1], past = context_lens[seq] - end;  // position = token + past
  const int last = min(first + kQueries, end) - 1 + past;
  const int* block_table = block_tables + i64(seq) * *max_blocks_per_seq;
  const int kv_head = head / (num_heads / num_kv_heads);
  const ScoreRule rule{scale, softcap, slopes ? slopes[head] : 0.0f, window};

  // Queries pass through the room of keys and values: kQueries rows of keys' stride.
  copy_rows<kQueries, HEAD_DIM, kKeyDim, kKeyStride>(shared_keys, keys, threadIdx.x, kWarps * 32, [&](int row) {
    return first + row < end ? q + (first + row) * q_stride + head * HEAD_DIM : nullptr;
  });
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  WarpAttention attention;
  attention.start(shared_keys + warp * 16 * kKeyStride);
  __syncthreads();

  const int first_tile = rule.first_visible(first + past) / KEYS, last_tile = last / KEYS;
  const auto copy_tile = [&](int tile) {
    const int stage = (tile - first_tile) % STAGES;
    if (tile <= last_tile) {
      copy_rows<KEYS, HEAD_DIM, kKeyDim, kKeyStride>(
          shared_keys + stage * KEYS * kKeyStride, keys, threadIdx.x, kWarps * 32, [&](int row) {
            const int key = tile * KEYS + row;
            return key > last ? nullptr : keys + cache_offset(block_table, key, kv_head, num_kv_heads, HEAD_DIM);
          });
      copy_rows<KEYS, VALUE_HEAD_DIM, kValueDim, kValueStride>(
          shared_values + stage * KEYS * kValueStride, values, threadIdx.x, kWarps * 32, [&](int row) {
            const int key = tile * KEYS + row;
            return key > last ? nullptr : values + cache_offset(block_table, key, kv_head, num_kv_heads, VALUE_HEAD_DIM);
          });
    }
    commit_copies();
  };

  const int position = first + past + warp * 16 + lane / 4;
  for (int tile = first_tile; tile < first_tile + STAGES - 1; tile++) copy_tile(tile);
  for (int tile = first_tile; tile <= last_tile; tile++) {
    copy_tile(tile + STAGES - 1);
    wait_copies<STAGES - 1>();
    __syncthreads();
    const int stage = (tile - first_tile) % STAGES;
    attention.attend<KEYS>(
        shared_keys + stage * KEYS * kKeyStride, shared_values + stage * KEYS * kValueStride, tile * KEYS,
        [&](int) { return rule; }, [&](int half) { return position + 8 * half; });
    __syncthreads();
  }
  attention.finish();
  const float sink = sinks ? to_float(sinks[head]) : -INFINITY;

#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int token = position - past + 8 * half;
    if (token >= end) continue;
    const float top = fmaxf(attention.top[half], sink);
    const float share = exp2f((attention.top[half] - top) * kLog2E);
    const float factor = share / (attention.total[half] * share + exp2f((sink - top) * kLog2E));
    C* row = y + token * y_stride + head * VALUE_HEAD_DIM;
#pragma unroll
    for (int i = 0; i < kValueDim / 8; i++) {
      const int d = 8 * i + lane % 4 * 2;
      if (d >= VALUE_HEAD_DIM) continue;
      row[d] = from_float<C>(attention.sum[i][2 * half] * factor);
      row[d + 1] = from_float<C>(attention.sum[i][2 * half + 1] * factor);
    }
  }
}
