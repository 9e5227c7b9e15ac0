// attention of sequences with one query in the step. The query heads of a key head are multiplied at once, so keys and values
// are read once. The workers of attention-share.cuh are warps, each with a ring of tiles of its own; or blocks, whose
// warps share each context, when there are few results and many warps would leave parts of each.
// WARPS, STAGES: of a block, and tiles under way of each, two at least; GROUP: query heads per key head.
#include "attention-group.cuh"
#include "attention-output.cuh"
#include "attention-share.cuh"
#include "barrier.cuh"

constexpr int kRows = 16;
constexpr int kGroupTiles = (GROUP + kRows - 1) / kRows;
constexpr int kRowsUsed = GROUP < kRows ? GROUP : kRows;
constexpr int kCount = kRowsUsed > 8 ? 2 : 1;
constexpr int kStageBytes = kKeyTileBytes + kValueTileBytes;

/// A tile in the cache.
struct StoredTile { const C *keys, *values; };

/// A warp's tiles in shared memory, filled ahead of their use.
struct Ring {
  u8* memory;        // [STAGES][keys, values]
  u64* barriers;     // [STAGES]
  int filled, used;  // stages that are next to be filled and used
  u32 parities;      // a bit for each stage

  __device__ __forceinline__ void start(u8* all_memory, u64* all_barriers) {
    const int warp = threadIdx.x / 32;
    memory = all_memory + warp * STAGES * kStageBytes;
    barriers = all_barriers + warp * STAGES;
    filled = used = 0;
    parities = 0;
#if HAS_COPY_ENGINE
    if (threadIdx.x % 32 == 0) {
      for (int stage = 0; stage < STAGES; stage++) init_barrier(barriers + stage, 1);
      publish_barriers();
    }
    __syncwarp();
#endif
  }

  /// What threads have done to the stage is done before.
  __device__ __forceinline__ void fill(const StoredTile& tile) {
    u8* stage = memory + filled * kStageBytes;
#if HAS_COPY_ENGINE
    u64* barrier = barriers + filled;
    if (threadIdx.x % 32 == 0) {
      announce_bytes(barrier, kStageBytes);
      copy_bulk(stage, tile.keys, kKeyTileBytes, barrier);
      copy_bulk(stage + kKeyTileBytes, tile.values, kValueTileBytes, barrier);
    }
#else
    for (int at = threadIdx.x % 32 * 16; at < kKeyTileBytes; at += 32 * 16)
      copy_async(stage + at, tile.keys + at / int(sizeof(C)), true);
    for (int at = threadIdx.x % 32 * 16; at < kValueTileBytes; at += 32 * 16)
      copy_async(stage + kKeyTileBytes + at, tile.values + at / int(sizeof(C)), true);
    commit_copies();
#endif
    filled = (filled + 1) % STAGES;
  }

  /// Asks L2 for a tile that is to be filled.
  __device__ __forceinline__ void prefetch(const StoredTile& tile) const {
#if HAS_COPY_ENGINE
    if (threadIdx.x % 32 == 0) prefetch_bulk(tile.keys, kKeyTileBytes), prefetch_bulk(tile.values, kValueTileBytes);
#endif
  }

  /// In place of a tile that there is not.
  __device__ __forceinline__ void skip() {
#if !HAS_COPY_ENGINE
    commit_copies();
#endif
  }

  /// The next tile, once it is there.
  __device__ __forceinline__ u8* wait() {
    u8* stage = memory + used * kStageBytes;
#if HAS_COPY_ENGINE
    wait_barrier(barriers + used, parities >> used & 1);
    parities ^= 1u << used;
#else
    // Two tiles may be taken before the next one is asked for.
    wait_copies<STAGES - 2>();
    __syncwarp();
#endif
    used = (used + 1) % STAGES;
    return stage;
  }
};

using ResultPart = Part<kRowsUsed, VALUE_HEAD_DIM>;

__device__ __forceinline__ void write_part(const GroupAttention<kCount>& attention, ResultPart part) {
  each_query<kCount>([&](int n, int j) {
    const int row = attention.query_of(n, j);
    if (row >= kRowsUsed) return;
    float* sums = part.sums + row * VALUE_HEAD_DIM;
    attention.each_sum(n, j, [&](int step, float low, float high) {
      if constexpr (kHasCodes) {
        *reinterpret_cast<float2*>(sums + value_column(step, 0)) = make_float2(low, high);
      } else {
        sums[value_column(step, 0)] = low;
        if (value_column(step, 1) < VALUE_HEAD_DIM) sums[value_column(step, 1)] = high;
      }
    });
    if (threadIdx.x % 32 < 4) part.weights()[row] = make_float2(attention.top[n][j], attention.total[n][j]);
  });
}

/// The result of the lane's query (n, j), where nobody else has a part of it.
__device__ __forceinline__ void write_result(const GroupAttention<kCount>& attention, int n, int j, float sink,
                                             const Output& output, int token, int head) {
  const float factor = attention.result_factor(n, j, sink);
  attention.each_sum(n, j, [&](int step, float low, float high) {
    const int d = value_column(step, 0), next = value_column(step, 1);
    if constexpr (kHasCodes) {
      output.put(token, head, d, {low * factor, high * factor});
    } else {
      output.put(token, head, d, {low * factor});
      if (next < VALUE_HEAD_DIM) output.put(token, head, next, {high * factor});
    }
  });
}

/// The warps' parts as one.
__device__ __forceinline__ void join_warps(float* warp_parts, ResultPart target) {
  merge_parts<kRowsUsed, VALUE_HEAD_DIM, WARPS * 32>(
      WARPS, [&](int i) { return warp_parts + i * ResultPart::kFloats; }, threadIdx.x, [](int) { return -INFINITY; },
      [&](int row, int d, const Merger& merged) {
        *reinterpret_cast<float4*>(target.sums + row * VALUE_HEAD_DIM + d) =
            make_float4(merged.sum[0], merged.sum[1], merged.sum[2], merged.sum[3]);
        if (d == 0) target.weights()[row] = make_float2(merged.top, merged.total);
      });
}

/// Whether blocks are the workers: with so few results that warps would leave many parts of each, and of contexts long enough to
/// keep a block's warps busy (measured on an H200).
__device__ __forceinline__ bool blocks_work(int num_results, int num_tiles, int num_blocks) {
  return num_results * 8 < num_blocks || (num_results < num_blocks * 4 && num_tiles >= num_results * 16);
}

/// Workers that have equally many results, where that is nearly all of them: contexts of one length are not parted then.
__device__ __forceinline__ int whole_workers(int num_results, int num_workers) {
  const int most = (num_results + num_workers - 1) / num_workers, whole = num_results / max(most, 1);
  return whole * 16 >= num_workers * 15 ? whole : num_workers;
}

/// Grid [blocks]: as many as run at once.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
    attention_decode(const int* num_seqs, const X* q, i64 q_stride, Y* y, i64 y_stride, const C* keys, const C* values,
                     const float* y_calibrated, int num_y_calibrated, float* y_scales, i64 y_scales_stride,
                     const int* block_tables, const int* max_blocks_per_seq, const int* cu_seqlens_q,
                     const int* context_lens, const float* slopes, const W* sinks, int num_heads, int num_kv_heads,
                     float scale, float softcap, int window, float* part_floats, int* arrivals) {
  extern __shared__ __align__(1024) u8 memory[];
  __shared__ u64 barriers[WARPS * STAGES];
  __shared__ int is_last_block;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Output output{y, y_stride, y_calibrated, num_y_calibrated, y_scales, y_scales_stride};
  const Decodes<kTileRows> decodes{cu_seqlens_q, context_lens, *num_seqs, num_kv_heads * kGroupTiles,
                                   ScoreRule{scale, softcap, 0.0f, window}};
  const int num_tiles = decodes.count();
  const int num_results = decodes.num_seqs * decodes.num_heads;
  const bool by_blocks = blocks_work(num_results, num_tiles, gridDim.x);
  // The heads of one sequence are equal units: a block has a part of one of them, not the ends of two.
  const bool has_units = by_blocks && decodes.num_seqs == 1 && num_results <= gridDim.x;
  const int num_workers = whole_workers(num_results, by_blocks ? gridDim.x : WARPS * gridDim.x);
  const Shares shares(num_tiles, num_workers, has_units ? num_results : 1);
  // Neighbours in the row of tiles go to different blocks, so that few tiles are spread over all of them.
  const int worker = by_blocks ? blockIdx.x : warp * gridDim.x + blockIdx.x;
  const int begin = shares.begin(worker);
  int index = begin;
  const int end = shares.begin(worker + 1);
  Ring ring;
  ring.start(memory, barriers);
  Cursor<kTileRows> at;
  if (index < end) at.seek(decodes, index);
  const int max_blocks = *max_blocks_per_seq;
  let_next_start();

  Cursor<kTileRows> ahead = at;
  int num_ahead = 0;  // tiles from `ahead` on that are to be filled
  int num_begun = 0;  // fills, of the STAGES that a row of tiles begins with
  const auto tile_ahead = [&]() -> StoredTile {
    const int* block_table = block_tables + i64(ahead.seq) * max_blocks;
    const int kv_head = ahead.head / kGroupTiles;
    return {keys + tile_start(block_table, ahead.group, kv_head, num_kv_heads, HEAD_DIM),
            values + tile_start(block_table, ahead.group, kv_head, num_kv_heads, VALUE_HEAD_DIM)};
  };
  const auto fill = [&] {
    if (num_ahead == 0) return ring.skip();
    ring.fill(tile_ahead());
    if (--num_ahead > 0) ahead.next(decodes);
  };
  const auto aim = [&](int first_tile, int count) { ahead = at, ahead.group = first_tile, num_ahead = count; };
  const auto fill_up = [&] {
    for (; num_begun < STAGES; num_begun++) fill();
    num_begun = 0;
  };
  if (index < end) {
    const int count = by_blocks ? min(end - index, at.groups.y - at.group) : end - index;
    const Shares own(count, by_blocks ? WARPS : 1);
    const int own_warp = by_blocks ? warp : 0;
    aim(at.group + own.begin(own_warp), own.begin(own_warp + 1) - own.begin(own_warp));
  }
  // In a step of decodes alone, earlier steps have written all but each sequence's last tile.
  const bool has_prompts = cu_seqlens_q[decodes.num_seqs] > decodes.num_seqs;
  for (; !has_prompts && num_begun < STAGES && num_ahead > 0 && ahead.group + 1 < ahead.groups.y; num_begun++) fill();
  if (has_units && num_ahead > 0) ring.prefetch(tile_ahead());
  wait_for_previous();
  if (index == end) return;
  fill_up();
  GroupAttention<kCount> attention;
  while (true) {
    const int count = min(end - index, at.groups.y - at.group);
    const Shares own(count, by_blocks ? WARPS : 1);
    const int first_tile = at.group + own.begin(by_blocks ? warp : 0);
    const int end_tile = at.group + own.begin(by_blocks ? warp + 1 : 1);
    const int position = context_lens[at.seq] - 1, token = cu_seqlens_q[at.seq];
    const int first_row = at.head % kGroupTiles * kRows, num_rows = min(kRowsUsed, GROUP - first_row);
    const int first_head = at.head / kGroupTiles * GROUP + first_row;
    const auto rule_of = [&](int row) {
      return ScoreRule{scale, softcap, ALIBI && row < num_rows ? slopes[first_head + row] : 0.0f, window};
    };
    if (by_blocks && index > begin) {
      aim(first_tile, end_tile - first_tile);
      fill_up();
    }
    attention.start([&](int row) {
      return row < num_rows ? q + token * q_stride + i64(first_head + row) * HEAD_DIM : nullptr;
    });
    const auto next_tile = [&](int tile) {
      u8* stage = ring.wait();
      const int num_seen = position + 1 - tile * kTileRows;
      if (num_seen < kTileRows) {
        clear_values(stage + kKeyTileBytes, num_seen, lane, 32);
        fence_async_proxy();
        __syncwarp();
      }
      return stage;
    };
    int tile = first_tile;
    // Two at once, so that more products are under way.
    for (; tile + 1 < end_tile; tile += 2) {
      u8* const stages[] = {next_tile(tile), next_tile(tile + 1)};
      attention.attend(stages, tile * kTileRows, rule_of, position);
      __syncwarp();
      fill(), fill();
    }
    if (tile < end_tile) {
      u8* const stages[] = {next_tile(tile)};
      attention.attend(stages, tile * kTileRows, rule_of, position);
      __syncwarp();
      fill();
    }
    attention.finish(rule_of);

    const Sharers sharers(at, index, shares);
    const PartsInMemory parts{part_floats, arrivals};
    const auto sink_of = [&](int row) {
      return sinks && row < num_rows ? to_float(sinks[first_head + row]) * kLog2E : -INFINITY;
    };
    const auto write = [&](int row, int d, const Merger& merged) {
      if (row < num_rows) merged.results([&](const float(&values)[4]) { output.put(token, first_head + row, d, values); });
    };
    const auto part_at = [&](int i) { return parts.at<ResultPart>(sharers.first + i, sharers).sums; };
    const int num_parts = sharers.last - sharers.first + 1;
    if (by_blocks) {
      float* warp_parts = reinterpret_cast<float*>(memory);
      __syncthreads();
      write_part(attention, {warp_parts + warp * ResultPart::kFloats});
      __syncthreads();
      if (sharers.is_one()) {
        const auto warp_part_at = [&](int i) { return warp_parts + i * ResultPart::kFloats; };
        merge_parts<kRowsUsed, VALUE_HEAD_DIM, WARPS * 32>(WARPS, warp_part_at, threadIdx.x, sink_of, write);
      } else {
        join_warps(warp_parts, parts.at<ResultPart>(worker, sharers));
        __syncthreads();
        if (threadIdx.x == 0) is_last_block = parts.arrive(sharers);
        __syncthreads();
        if (is_last_block)
          merge_parts<kRowsUsed, VALUE_HEAD_DIM, WARPS * 32>(num_parts, part_at, threadIdx.x, sink_of, write);
      }
      fence_async_proxy();
      __syncthreads();
    } else if (sharers.is_one()) {
      each_query<kCount>([&](int n, int j) {
        const int row = attention.query_of(n, j);
        if (row < num_rows) write_result(attention, n, j, sink_of(row), output, token, first_head + row);
      });
    } else {
      write_part(attention, parts.at<ResultPart>(worker, sharers));
      __syncwarp();
      const bool is_last = lane == 0 && parts.arrive(sharers);
      if (__any_sync(0xffffffffu, is_last))
        merge_parts<kRowsUsed, VALUE_HEAD_DIM, 32>(num_parts, part_at, lane, sink_of, write);
    }
    index += count;
    if (index == end) return;
    at.advance(decodes);
  }
}
