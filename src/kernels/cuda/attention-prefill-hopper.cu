// attention of sequences with several queries in the step, for Hopper: the work of attention-prefill.cu, with tiles brought by
// the copy engine and multiplied by wgmma. Head dimensions are multiples of 16.
// TILES: tiles of 16 keys that are worked on at once, STAGES: such groups in shared memory, BLOCKS: on a multiprocessor.
#include "attention-tile.cuh"
#include "barrier.cuh"
#include "wgmma-fragments.cuh"

constexpr int kThreads = 128, kQueries = 64, kKeys = kTileRows * TILES;
/// Panels of factors start at multiples of 1024 bytes.
constexpr int kValueFactorStride = round_up(kValueFactorBytes, 1024);
constexpr int kFactorBytes = TILES * (kKeyFactorBytes + kValueFactorStride);
/// Stages are of factors, or of codes behind the factors of one group.
constexpr int kValueTileStride = kHasCodes ? kValueTileBytes : kValueFactorStride;
constexpr int kStageBytes = TILES * (kKeyTileBytes + kValueTileStride);
constexpr int kFirstStage = kHasCodes ? kFactorBytes : 0;

__device__ constexpr int num_panels(int row_bytes) {
  int count = 0;
  for (int at = 0; at < row_bytes; count++) {
    const Panel panel = panel_of(at, row_bytes);
    at = panel.start + panel.width;
  }
  return count;
}
constexpr int kKeyPanels = kHasCodes ? 1 : num_panels(kKeyRowBytes);

/// Copies groups of keys and values up to tile `last_tile`, a piece by each lane of a warp. Factors of keys lie in panels
/// [kKeys][width], since a product takes all of them; those of values tile by tile, since it takes one.
struct GroupCopy {
  const C* keys;
  const C* values;
  const int* block_table;
  int kv_head, num_kv_heads, last_tile;
  i64 block = 0;  // of the lane's tile in the next group

  /// Before the group's turn, so that nobody waits for the block table.
  __device__ __forceinline__ void look_up(int group) {
    const int tile = group * TILES + threadIdx.x % 32 / 8;
    if (tile <= last_tile) block = block_table[tile / kTilesPerBlock];
  }

  __device__ __forceinline__ void run(u8* stage, u64* barrier, int group) {
    const int lane = threadIdx.x % 32, num_tiles = min(TILES, last_tile + 1 - group * TILES);
    if (lane == 0) announce_bytes(barrier, num_tiles * (kKeyTileBytes + kValueTileBytes));
    __syncwarp();
    const int i = lane / 8, piece = lane % 8, tile = group * TILES + i;
    if (i < num_tiles && piece == 7) {
      const C* source = values + tile_in_block(block, tile, kv_head, num_kv_heads, VALUE_HEAD_DIM);
      copy_bulk(stage + TILES * kKeyTileBytes + i * kValueTileStride, source, kValueTileBytes, barrier);
    } else if (i < num_tiles && piece < kKeyPanels) {
      const C* source = keys + tile_in_block(block, tile, kv_head, num_kv_heads, HEAD_DIM);
      if constexpr (kHasCodes) {
        copy_bulk(stage + i * kKeyTileBytes, source, kKeyTileBytes, barrier);
      } else {
        int at = 0;
        for (int p = 0; p < piece; p++) at += panel_of(at, kKeyRowBytes).width;
        const int bytes = kTileRows * panel_of(at, kKeyRowBytes).width;
        copy_bulk(stage + kKeys * at + i * bytes, source + kTileRows * at / 2, bytes, barrier);
      }
    }
    look_up(group + 1);
  }
};

/// Factors of a group's codes, where products find them; zeros in rows `num_seen` and up.
template <typename Codes = C> __device__ __forceinline__ void widen_group(u8* factors, const u8* stage, int num_seen) {
  widen_tiles<TILES, kKeyRowBytes, kThreads, Codes>(stage, kKeyTileBytes, num_seen, [&](int t, int row, int at) {
    const Panel panel = panel_of(at, kKeyFactorRowBytes);
    const int panels_before = (kKeys - kTileRows) * panel.start + t * kTileRows * panel.width;
    return factors + panels_before + tile_byte(row, at, kKeyFactorRowBytes);
  });
  u8* value_factors = factors + TILES * kKeyFactorBytes;
  const u8* values = stage + TILES * kKeyTileBytes;
  widen_tiles<TILES, kValueRowBytes, kThreads, Codes>(values, kValueTileBytes, num_seen, [&](int t, int row, int at) {
    return value_factors + t * kValueFactorStride + tile_byte(row, at, kValueFactorRowBytes);
  });
}

__device__ __forceinline__ void multiply_keys(float (&scores)[2 * TILES][4], const u32 (&query)[kKeyDim / 16][4],
                                              const u8* keys) {
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; k++) {
    const Panel panel = panel_of(32 * k, kKeyFactorRowBytes);
    // A step of 16 columns further in a panel is 32 bytes further in memory.
    const u64 columns = (32 * k - panel.start) / 16;
    wgmma<2 * TILES, 0>(scores, query[k], describe_panel(keys + kKeys * panel.start, panel.width) + columns, k > 0);
  }
}

/// Few factors of queries wait in shared memory behind the stages: in registers they did not outlive the first group's products
/// where they had been computed (ptxas 13.0, 64 columns).
constexpr bool kStoresQuery = kHasCodes && kKeyDim <= 64;

__device__ __forceinline__ u8* query_place(u8* memory, int k) {
  return memory + kFirstStage + STAGES * kStageBytes + (k * kThreads + threadIdx.x) * 16;
}
__device__ __forceinline__ void store_query(const u32 (&query)[kKeyDim / 16][4], u8* memory) {
#pragma unroll
  for (int k = 0; k < kKeyDim / 16; k++)
    *reinterpret_cast<uint4*>(query_place(memory, k)) = make_uint4(query[k][0], query[k][1], query[k][2], query[k][3]);
}
__device__ __forceinline__ void load_query(u32 (&query)[kKeyDim / 16][4], u8* memory) {
#pragma unroll
  for (int k = 0; k < kKeyDim / 16; k++)
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(query[k][0]), "=r"(query[k][1]), "=r"(query[k][2]), "=r"(query[k][3])
                 : "r"(shared_address(query_place(memory, k)))
                 : "memory");
}

/// Panel by panel: products that share a sum follow one another.
template <int kAt>
__device__ __forceinline__ void add_values(float (&sum)[kValueDim / 8][4], const u32 (&weights)[TILES][4], const u8* values) {
  if constexpr (kAt < kValueFactorRowBytes) {
    constexpr Panel panel = panel_of(kAt, kValueFactorRowBytes);
#pragma unroll
    for (int t = 0; t < TILES; t++)
      wgmma<panel.width / 16, 1>(sum + kAt / 16, weights[t],
                                 describe_panel(values + t * kValueFactorStride + kTileRows * kAt, panel.width), true);
    add_values<kAt + panel.width>(sum, weights, values);
  }
}

/// Grid [query tiles, heads]; `query_tiles` holds (sequence, first token) pairs. The last tiles, which see most, go first.
extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)
    attention_prefill(const int* num_query_tiles, const int* query_tiles, const X* q, i64 q_stride, X* y, i64 y_stride,
                      const C* keys, const C* values, const int* block_tables, const int* max_blocks_per_seq,
                      const int* cu_seqlens_q, const int* context_lens, const float* slopes, const W* sinks,
                      int num_heads, int num_kv_heads, float scale, float softcap, int window) {
  extern __shared__ __align__(1024) u8 memory[];  // of codes a group's factors; [STAGES][kStageBytes]; queries
  __shared__ u64 barriers[STAGES];
  const int query_tile = *num_query_tiles - 1 - int(blockIdx.x);
  let_next_start();
  wait_for_previous();
  if (query_tile < 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
  const int seq = query_tiles[2 * query_tile], first = query_tiles[2 * query_tile + 1];
  const int end = cu_seqlens_q[seq + 1], past = context_lens[seq] - end;  // position = token + past
  const int last = min(first + kQueries, end) - 1 + past;
  const ScoreRule rule{scale, softcap, ALIBI ? slopes[head] : 0.0f, window};
  GroupCopy copy{keys,
                 values,
                 block_tables + i64(seq) * *max_blocks_per_seq,
                 head / (num_heads / num_kv_heads),
                 num_kv_heads,
                 last / kTileRows};
  const int first_group = rule.first_visible(first + past) / kKeys, num_groups = last / kKeys + 1 - first_group;
  if (warp == 0) {
    if (lane < STAGES) init_barrier(barriers + lane, 1);
    publish_barriers();
    __syncwarp();
    copy.look_up(first_group);
    for (int i = 0; i < min(STAGES, num_groups); i++)
      copy.run(memory + kFirstStage + i * kStageBytes, barriers + i, first_group + i);
  }
  __syncthreads();

  WarpAttention<> attention;
  const int position = first + past + warp * 16 + lane / 4;
  attention.start([&](int half) {
    const int token = position - past + 8 * half;
    return token < end ? q + token * q_stride + head * HEAD_DIM : nullptr;
  });
  if constexpr (kStoresQuery) store_query(attention.query, memory);
  const auto rule_of = [&](int) { return rule; };
  const auto position_of = [&](int half) { return position + 8 * half; };
  for (int i = 0, stage = 0, parity = 0; i < num_groups; i++) {
    const int first_key = (first_group + i) * kKeys;
    u8* stage_memory = memory + kFirstStage + stage * kStageBytes;
    const u8* group_keys = kHasCodes ? memory : stage_memory;
    const u8* group_values = group_keys + TILES * kKeyFactorBytes;
    wait_barrier(barriers + stage, parity);
    const auto fill_again = [&] {
      if (warp == 0 && i + STAGES < num_groups) copy.run(stage_memory, barriers + stage, first_group + i + STAGES);
    };
    if constexpr (kHasCodes) {
      widen_group(memory, stage_memory, last + 1 - first_key);
      fence_async_proxy();
      __syncthreads();
      fill_again();
    } else if (first_key + kKeys > last + 1) {
      u8* stage_values = stage_memory + TILES * kKeyTileBytes;
      for (int t = 0; t < TILES; t++) {
        const int num_seen = max(0, last + 1 - first_key - t * kTileRows);
        if (num_seen < kTileRows) clear_values(stage_values + t * kValueTileStride, num_seen, threadIdx.x, kThreads);
      }
      fence_async_proxy();
      __syncthreads();
    }

    if constexpr (kStoresQuery) load_query(attention.query, memory);
    float scores[2 * TILES][4], keep[2];
    begin_products();
    multiply_keys(scores, attention.query, group_keys);
    commit_products();
    wait_products<0>();
    const bool all_seen = first_key + kKeys <= first + past + 1 && rule.first_visible(last) <= first_key;
    if (all_seen)
      attention.template weigh<2 * TILES, false>(scores, keep, first_key, rule_of, position_of);
    else
      attention.template weigh<2 * TILES, true>(scores, keep, first_key, rule_of, position_of);
    attention.rescale(keep);
    u32 weights[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) attention.pack_weights(weights[t], scores[2 * t], scores[2 * t + 1]);
    settle(attention.sum);
    begin_products();
    add_values<0>(attention.sum, weights, group_values);
    commit_products();
    wait_products<0>();
    __syncthreads();
    if constexpr (!kHasCodes) fill_again();
    stage = (stage + 1) % STAGES;
    if (stage == 0) parity ^= 1;
  }

  attention.finish(rule_of);
  const float sink = sinks ? to_float(sinks[head]) * kLog2E : -INFINITY;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int token = position - past + 8 * half;
    if (token >= end) continue;
    X* row = y + token * y_stride + head * VALUE_HEAD_DIM;
    attention.results(half, sink, [&](int d, float low, float high) {
      *reinterpret_cast<u32*>(row + d) = pack<X>(low, high);
    });
  }
}
