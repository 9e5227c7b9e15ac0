// attention of sequences with several queries in the step, for Hopper, in the manner of Shah et al., "FlashAttention-3", 2024.
// A block stays on its multiprocessor and takes one piece of work after another: 128 queries of a head. One warpgroup brings keys
// and values, by the copy engine, and makes numbers of codes; two more take 64 queries each and do the softmax of one group of keys
// beside the products of the next one's keys and of the last one's values. Pieces of 64 queries or fewer are one warpgroup's, while
// the other one is at the next. Head dimensions are multiples of 16.
// TILES: tiles of 16 keys in a group, STAGES: groups in shared memory.
#include "attention-tile.cuh"
#include "pipeline.cuh"
#include "query-tiles.cuh"
#include "wgmma-fragments.cuh"

constexpr int kProducers = 128, kGroups = 2, kConsumers = 128 * kGroups, kThreads = kProducers + kConsumers;
constexpr int kGroupQueries = 64, kQueries = kGroups * kGroupQueries, kKeys = kTileRows * TILES;
/// Codes are on their way in two groups.
constexpr int kCodeStages = 2;
/// Registers of a thread: making numbers of codes takes some.
constexpr int kProducerRegisters = kHasCodes ? 72 : 40, kConsumerRegisters = kHasCodes ? 216 : 232;
/// Panels start at multiples of 1024 bytes.
constexpr int kValueFactorStride = round_up(kValueFactorBytes, 1024);
constexpr int kQueryBytes = kGroupQueries * kKeyFactorRowBytes;
constexpr int kKeyStageBytes = TILES * kKeyFactorBytes, kValueStageBytes = TILES * kValueFactorStride;
constexpr int kCodeStageBytes = TILES * (kKeyTileBytes + kValueTileBytes);

struct Memory {
  u8 queries[kGroups][kQueryBytes];
  u8 keys[STAGES][kKeyStageBytes];
  u8 values[STAGES][kValueStageBytes];
  u8 codes[kHasCodes ? kCodeStages * kCodeStageBytes : 16];
  float units[QueryUnit::kIsOne ? 1 : kQueries];
  Ring<STAGES, kConsumers / 32> key_ring, value_ring;
  u64 codes_full[kCodeStages];
};

/// Barriers of threads: of the producers, of each consuming warpgroup, and of its turn to start products.
constexpr int kProducerBarrier = 1, kGroupBarrier = 2, kTurnBarrier = kGroupBarrier + kGroups;

__device__ __forceinline__ void sync_threads(int barrier, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void arrive_at(int barrier, int count) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

/// Queries of one head.
struct Work {
  Queries queries;
  int head, round;
  bool exists;

  /// Where the queries of a warpgroup begin; -1 if it has none.
  __device__ __forceinline__ int first_query(int group) const {
    const bool is_shared = queries.end - queries.first > kGroupQueries;
    return is_shared ? queries.first + group * kGroupQueries : round % kGroups == group ? queries.first : -1;
  }
};

/// Work in the order in which blocks take it, that with the most keys first; each second round goes backwards, so that all have
/// about as much.
struct Schedule {
  const Queries* tiles;
  int num_heads, num_pieces;

  __device__ __forceinline__ int index(int round) const {
    return round * gridDim.x + (round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
  }
  __device__ __forceinline__ Work work(int round) const {
    const int i = index(round);
    if (i >= num_pieces) return {{}, 0, round, false};
    return {tiles[i / num_heads], i % num_heads, round, true};
  }
  /// Ahead of time, so that nobody waits for the list then.
  __device__ __forceinline__ void prefetch(int round) const {
    const int i = index(round);
    if (i < num_pieces) asm volatile("prefetch.global.L1 [%0];" ::"l"(tiles + i / num_heads));
  }
};

/// Groups of keys that queries see.
struct Groups {
  int first, count, last_position;

  __device__ __forceinline__ Groups(const Queries& queries, const ScoreRule& rule)
      : first(rule.first_visible(queries.first + queries.past) / kKeys), last_position(queries.last_position(kQueries)) {
    count = last_position / kKeys + 1 - first;
  }
  __device__ __forceinline__ int last_tile() const { return last_position / kTileRows; }
  __device__ __forceinline__ int num_tiles(int group) const { return min(TILES, last_tile() + 1 - group * TILES); }
  /// Keys of a group, or more, that there are.
  __device__ __forceinline__ int num_keys(int group) const { return last_position + 1 - group * kKeys; }
};

/// The warpgroup that fills the stages.
struct Producer {
  Memory& memory;
  const C* keys;
  const C* values;
  const int* block_tables;
  int max_blocks_per_seq, num_kv_heads, queries_per_kv_head;

  /// Tiles of a piece of work, four lanes to one.
  struct Tiles {
    const int* block_table;
    int kv_head, last;

    /// Of the lane, in a group.
    static __device__ __forceinline__ int of(int group) { return group * TILES + threadIdx.x / 4; }
    __device__ __forceinline__ bool has(int group) const { return threadIdx.x / 4 < TILES && of(group) <= last; }
    /// Looked up a group ahead.
    __device__ __forceinline__ i64 block(int group) const { return has(group) ? block_table[of(group) / kTilesPerBlock] : 0; }
  };

  /// Keys lie in panels [kKeys][width], since a product takes all of them.
  __device__ __forceinline__ void copy_keys(const Tiles& tiles, int group, i64 block, u64* full, u8* target) const {
    if (!tiles.has(group)) return;
    const C* source = keys + tile_in_block(block, tiles.of(group), tiles.kv_head, num_kv_heads, HEAD_DIM);
    int piece = 0;
    for (int at = 0; at < kKeyRowBytes; piece++) {
      const int width = panel_of(at, kKeyRowBytes).width, bytes = kTileRows * width;
      if (piece % 4 == threadIdx.x % 4)
        copy_bulk(target + kKeys * at + threadIdx.x / 4 * bytes, source + kTileRows * at / int(sizeof(C)), bytes, full);
      at += width;
    }
  }

  /// Whole tiles, `stride` bytes apart: of values, since a product takes one.
  __device__ __forceinline__ void copy_tiles(const C* cache, int head_dim, int bytes, const Tiles& tiles, int group, i64 block,
                                             u64* full, u8* target, int stride) const {
    if (!tiles.has(group) || threadIdx.x % 4 != 0) return;
    const C* source = cache + tile_in_block(block, tiles.of(group), tiles.kv_head, num_kv_heads, head_dim);
    copy_bulk(target + threadIdx.x / 4 * stride, source, bytes, full);
  }

  /// One warp: groups as they lie in the cache.
  __device__ __forceinline__ void bring(const Groups& groups, const Tiles& tiles, int& turn) const {
    i64 block = tiles.block(groups.first);
    for (int group = groups.first; group < groups.first + groups.count; group++, turn++) {
      const int stage = turn % STAGES, num_tiles = groups.num_tiles(group);
      const i64 next_block = tiles.block(group + 1);
      memory.key_ring.begin_fill(turn, num_tiles * kKeyTileBytes);
      __syncwarp();
      copy_keys(tiles, group, block, &memory.key_ring.full[stage], memory.keys[stage]);
      memory.value_ring.begin_fill(turn, num_tiles * kValueTileBytes);
      __syncwarp();
      copy_tiles(values, VALUE_HEAD_DIM, kValueTileBytes, tiles, group, block, &memory.value_ring.full[stage],
                 memory.values[stage], kValueFactorStride);
      block = next_block;
    }
  }

  /// One warp: a group of codes.
  __device__ __forceinline__ void copy_codes(const Groups& groups, const Tiles& tiles, int group, int turn) const {
    u8* target = memory.codes + turn % kCodeStages * kCodeStageBytes;
    u64* full = &memory.codes_full[turn % kCodeStages];
    if (threadIdx.x == 0) announce_bytes(full, groups.num_tiles(group) * (kKeyTileBytes + kValueTileBytes));
    __syncwarp();
    const i64 block = tiles.block(group);
    copy_tiles(keys, HEAD_DIM, kKeyTileBytes, tiles, group, block, full, target, kKeyTileBytes);
    target += TILES * kKeyTileBytes;
    copy_tiles(values, VALUE_HEAD_DIM, kValueTileBytes, tiles, group, block, full, target, kValueTileBytes);
  }

  /// The whole warpgroup: numbers of codes, zeros behind the last key.
  template <typename Codes = C> __device__ __forceinline__ void widen(const Groups& groups, const Tiles& tiles, int& turn) const {
    const bool copies = threadIdx.x < 32;
    for (int i = 0; i < min(kCodeStages, groups.count) && copies; i++) copy_codes(groups, tiles, groups.first + i, turn + i);
    for (int i = 0; i < groups.count; i++, turn++) {
      const int group = groups.first + i, stage = turn % STAGES, num_keys = groups.num_keys(group);
      const u8* codes = memory.codes + turn % kCodeStages * kCodeStageBytes;
      wait_barrier(&memory.codes_full[turn % kCodeStages], turn / kCodeStages % 2);
      memory.key_ring.wait_empty(turn);
      u8* key_factors = memory.keys[stage];
      widen_tiles<TILES, kKeyRowBytes, kProducers, Codes>(codes, kKeyTileBytes, num_keys, [&](int t, int row, int at) {
        const Panel panel = panel_of(at, kKeyFactorRowBytes);
        const int panels_before = (kKeys - kTileRows) * panel.start + t * kTileRows * panel.width;
        return key_factors + panels_before + tile_byte(row, at, kKeyFactorRowBytes);
      });
      publish(memory.key_ring.full[stage]);
      memory.value_ring.wait_empty(turn);
      u8* value_factors = memory.values[stage];
      codes += TILES * kKeyTileBytes;
      widen_tiles<TILES, kValueRowBytes, kProducers, Codes>(codes, kValueTileBytes, num_keys, [&](int t, int row, int at) {
        return value_factors + t * kValueFactorStride + tile_byte(row, at, kValueFactorRowBytes);
      });
      publish(memory.value_ring.full[stage]);
      if (copies && i + kCodeStages < groups.count) copy_codes(groups, tiles, group + kCodeStages, turn + kCodeStages);
    }
  }

  /// What all threads of the warpgroup have written.
  static __device__ __forceinline__ void publish(u64& full) {
    fence_async_proxy();
    sync_threads(kProducerBarrier, kProducers);
    if (threadIdx.x == 0) arrive(&full);
  }

  __device__ __forceinline__ void run(const Schedule& schedule, const ScoreRule& rule) const {
    Work work = schedule.work(0);
    for (int round = 1, turn = 0; work.exists; round++) {
      schedule.prefetch(round);
      const Groups groups(work.queries, rule);
      const Tiles tiles{block_tables + i64(work.queries.seq) * max_blocks_per_seq, work.head / queries_per_kv_head,
                        groups.last_tile()};
      if constexpr (kHasCodes) widen(groups, tiles, turn);
      else bring(groups, tiles, turn);
      work = schedule.work(round);
    }
  }
};

/// A warpgroup that makes results of 64 queries at a time.
struct Consumer {
  Memory& memory;
  int group;  // 0 or 1
  u8* queries;
  WarpAttention<> attention;

  __device__ __forceinline__ Consumer(Memory& memory, int group)
      : memory(memory), group(group), queries(memory.queries[group]) {
    if (group == 1) pass_turn();
  }

  __device__ __forceinline__ void sync() const { sync_threads(kGroupBarrier + group, 128); }

  /// Warpgroups start products in turn, so that one's softmax runs beside the other's products.
  __device__ __forceinline__ void take_turn() const { sync_threads(kTurnBarrier + group, kConsumers); }
  __device__ __forceinline__ void pass_turn() const { arrive_at(kTurnBarrier + 1 - group, kConsumers); }

  /// Starts copies of queries to panels [64][width]; zeros behind the last.
  __device__ __forceinline__ void copy_queries(const Work& work, const X* q, i64 q_stride) const {
    constexpr int kPieces = HEAD_DIM / 8;
    const int first = work.first_query(group), end = work.queries.end;
    if (!work.exists || first < 0) return;
    for (int i = threadIdx.x % 128; i < kGroupQueries * kPieces; i += 128) {
      const int row = i / kPieces;
      const X* source = q + i64(min(first + row, end - 1)) * q_stride + work.head * HEAD_DIM + i % kPieces * 8;
      copy_async(queries + query_byte(row, i % kPieces * 16), source, first + row < end);
    }
    commit_copies();
  }

  static __device__ __forceinline__ int query_byte(int row, int at) {
    const Panel panel = panel_of(at, kKeyFactorRowBytes);
    return (kGroupQueries - kTileRows) * panel.start + row / kTileRows * kTileRows * panel.width +
           tile_byte(row % kTileRows, at, kKeyFactorRowBytes);
  }

  /// Until queries have come and are what products take; two threads to a row.
  __device__ __forceinline__ void settle_queries() {
    wait_copies<0>();
    if constexpr (!QueryUnit::kIsOne) {
      sync();
      const int row = threadIdx.x % 128 / 2;
      float absmax = 0.0f;
      for (int at = threadIdx.x % 2 * 16; at < kKeyFactorRowBytes; at += 32) {
        const uint4 x = *reinterpret_cast<uint4*>(queries + query_byte(row, at));
        absmax = fmaxf(absmax, fmaxf(fmaxf(QueryUnit::absmax(x.x), QueryUnit::absmax(x.y)),
                                     fmaxf(QueryUnit::absmax(x.z), QueryUnit::absmax(x.w))));
      }
      const QueryUnit unit(fmaxf(absmax, __shfl_xor_sync(0xffffffffu, absmax, 1)));
      for (int at = threadIdx.x % 2 * 16; at < kKeyFactorRowBytes; at += 32) {
        uint4& x = *reinterpret_cast<uint4*>(queries + query_byte(row, at));
        x = make_uint4(unit.divide(x.x), unit.divide(x.y), unit.divide(x.z), unit.divide(x.w));
      }
      if (threadIdx.x % 2 == 0) memory.units[group * kGroupQueries + row] = unit.value;
    }
    fence_async_proxy();
    sync();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if constexpr (!QueryUnit::kIsOne) attention.unit[half].value = memory.units[group * kGroupQueries + row_of(half)];
    }
  }

  /// The thread's rows among the warpgroup's.
  static __device__ __forceinline__ int row_of(int half) {
    return threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4 + 8 * half;
  }

  __device__ __forceinline__ void multiply_keys(float (&scores)[2 * TILES][4], int turn) {
    memory.key_ring.wait_full(turn);
    const u8* keys = memory.keys[turn % STAGES];
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
      const Panel panel = panel_of(32 * k, kKeyFactorRowBytes);
      // A step of 16 columns further in a panel is 32 bytes further in memory.
      const u64 columns = (32 * k - panel.start) / 16;
      wgmma<2 * TILES>(scores, describe_panel(queries + kGroupQueries * panel.start, panel.width) + columns,
                       describe_panel(keys + kKeys * panel.start, panel.width) + columns, k > 0);
    }
    commit_products();
  }

  __device__ __forceinline__ void add_values(const u32 (&weights)[TILES][4], int turn) {
    add_panels<0>(weights, memory.values[turn % STAGES]);
    commit_products();
  }

  /// Panel by panel, or two: products that share a sum follow one another.
  template <int kAt> __device__ __forceinline__ void add_panels(const u32 (&weights)[TILES][4], const u8* values) {
    if constexpr (kAt < kValueFactorRowBytes) {
      constexpr int kWidth = panel_of(kAt, kValueFactorRowBytes).width, kPanelBytes = kTileRows * kWidth;
            constexpr int kTaken = kAt + 256 <= kValueFactorRowBytes ? 256 : kWidth;
#pragma unroll
      for (int t = 0; t < TILES; t++)
        wgmma<kTaken / 16, 1>(attention.sum + kAt / 16, weights[t],
                              describe_panel(values + t * kValueFactorStride + kTileRows * kAt, kWidth, kPanelBytes), true);
      add_panels<kAt + kTaken>(weights, values);
    }
  }

  /// Zeros in values behind the last key: what lies there may be no number. Both warpgroups see to it, so that neither waits.
  __device__ __forceinline__ void clear_end(int turn, int num_keys) {
    if (kHasCodes || num_keys >= kKeys) return;
    for (int t = 0; t < TILES; t++) {
      const int rows = max(0, num_keys - t * kTileRows);
      if (rows < kTileRows) clear_values(memory.values[turn % STAGES] + t * kValueFactorStride, rows, threadIdx.x % 128, 128);
    }
    fence_async_proxy();
    sync();
  }

  /// Scores of a group of keys to weights; `keep`: what sums so far are to be multiplied with.
  template <bool kMasked>
  __device__ __forceinline__ void weigh(float (&scores)[2 * TILES][4], float (&keep)[2], const ScoreRule& rule, int position,
                                        int key_group) {
    attention.template weigh<2 * TILES, kMasked>(
        scores, keep, key_group * kKeys, [&](int) { return rule; }, [&](int half) { return position + row_of(half); });
  }

  /// Whether all queries, of which the first has this position, see all keys of a group.
  static __device__ __forceinline__ bool all_seen(const ScoreRule& rule, int position, int key_group) {
    const int first_key = key_group * kKeys;
    return first_key + kKeys <= position + 1 && rule.first_visible(position + kGroupQueries - 1) <= first_key;
  }

  static __device__ __forceinline__ void pack_weights(u32 (&weights)[TILES][4], const float (&scores)[2 * TILES][4]) {
#pragma unroll
    for (int t = 0; t < TILES; t++) WarpAttention<>::pack_weights(weights[t], scores[2 * t], scores[2 * t + 1]);
  }

  /// Weights of the first group of keys.
  __device__ __forceinline__ void begin(u32 (&weights)[TILES][4], const ScoreRule& rule, int position, int key_group, int turn) {
    float scores[2 * TILES][4], keep[2];
    attention.clear();
    begin_products();
    multiply_keys(scores, turn);
    wait_products<0>();
    settle(scores);
    memory.key_ring.release(turn);
    weigh<true>(scores, keep, rule, position, key_group);
    pack_weights(weights, scores);
    memory.value_ring.wait_full(turn);
  }

  /// Products of the keys of a group and of the values of the one before, whose weights give way to this group's.
  template <bool kMasked>
  __device__ __forceinline__ void step(u32 (&weights)[TILES][4], const ScoreRule& rule, int position, int key_group, int turn) {
    float scores[2 * TILES][4], keep[2];
    settle(attention.sum);
    take_turn();
    begin_products();
    multiply_keys(scores, turn);
    add_values(weights, turn - 1);
    pass_turn();
    wait_products<1>();
    settle(scores);
    memory.key_ring.release(turn);
    weigh<kMasked>(scores, keep, rule, position, key_group);
    // Here, so that the compiler leaves the softmax ahead of the wait for products.
    memory.value_ring.wait_full(turn);
    wait_products<0>();
    settle(attention.sum);
    memory.value_ring.release(turn - 1);
    attention.rescale(keep);
    pack_weights(weights, scores);
  }

  /// Of the last group of keys.
  __device__ __forceinline__ void end(const u32 (&weights)[TILES][4], const ScoreRule& rule, int num_keys, int turn) {
    clear_end(turn, num_keys);
    settle(attention.sum);
    begin_products();
    add_values(weights, turn);
    wait_products<0>();
    settle(attention.sum);
    memory.value_ring.release(turn);
    attention.finish([&](int) { return rule; });
  }

  /// The other warpgroup's piece of work: everything is released as soon as it has come.
  __device__ __forceinline__ void skip(const Work& work, const ScoreRule& rule, int& turn) const {
    const Groups groups(work.queries, rule);
    for (int i = 0; i < groups.count; i++, turn++) {
      if (i > 0) take_turn(), pass_turn();
      memory.key_ring.wait_full(turn);
      memory.key_ring.release(turn);
      memory.value_ring.wait_full(turn);
      memory.value_ring.release(turn);
    }
  }

  /// One piece of work, from turn `turn` on; `next_queries` is called when queries are no longer used.
  template <typename F>
  __device__ __forceinline__ void run(const Work& work, const ScoreRule& rule, int& turn, F next_queries) {
    const Groups groups(work.queries, rule);
    const int position = work.first_query(group) + work.queries.past, last = groups.first + groups.count - 1;
    u32 weights[TILES][4];
    begin(weights, rule, position, groups.first, turn++);
    int i = groups.first + 1;
#if WINDOW
    for (; i <= last && !all_seen(rule, position, i); i++) step<true>(weights, rule, position, i, turn++);
#endif
    for (; i <= last && all_seen(rule, position, i); i++) step<false>(weights, rule, position, i, turn++);
    for (; i <= last; i++) step<true>(weights, rule, position, i, turn++);
    next_queries();
    end(weights, rule, groups.num_keys(last), turn - 1);
  }

  __device__ __forceinline__ void write(const Work& work, const W* sinks, const Output& output) const {
    const int first = work.first_query(group);
    attention.write(sinks ? to_float(sinks[work.head]) * kLog2E : -INFINITY, output, work.head, work.queries.end,
                    [&](int half) { return first + row_of(half); });
  }
};

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    attention_prefill(const int* num_query_tiles, const Queries* query_tiles, const X* q, i64 q_stride, Y* y, i64 y_stride,
                      const C* keys, const C* values, const float* y_calibrated, int num_y_calibrated, float* y_scales,
                      i64 y_scales_stride, const int* block_tables, const int* max_blocks_per_seq,
                      const float* slopes, const W* sinks, int num_heads, int num_kv_heads, float scale, float softcap,
                      int window) {
  extern __shared__ u8 shared[];
  Memory& memory = *reinterpret_cast<Memory*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
  if (threadIdx.x == 0) {
    memory.key_ring.init();
    memory.value_ring.init();
    for (u64& full : memory.codes_full) init_barrier(&full, 1);
    publish_barriers();
  }
  __syncthreads();
  let_next_start();
  const Schedule schedule{query_tiles, num_heads, *num_query_tiles * num_heads};
  ScoreRule rule{scale, softcap, 0.0f, window};
  if (threadIdx.x < kProducers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kProducerRegisters));
    const Producer producer{memory,       keys,         values, block_tables, *max_blocks_per_seq,
                            num_kv_heads, num_heads / num_kv_heads};
    wait_for_previous();
    if (kHasCodes || threadIdx.x < 32) producer.run(schedule, rule);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kConsumerRegisters));
    // The compiler sees that a warp's threads agree, and lets products overlap.
    Consumer consumer(memory, __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0));
    const Output output{y, y_stride, y_calibrated, num_y_calibrated, y_scales, y_scales_stride};
    Work work = schedule.work(0);
    wait_for_previous();
    consumer.copy_queries(work, q, q_stride);
    for (int round = 1, turn = 0; work.exists; round++) {
      const Work next = schedule.work(round);
      if (work.first_query(consumer.group) < 0) {
        consumer.copy_queries(next, q, q_stride);
        consumer.skip(work, rule, turn);
      } else {
        if (ALIBI) rule.slope = slopes[work.head];
        consumer.settle_queries();
        consumer.run(work, rule, turn, [&] {
          consumer.sync();
          consumer.copy_queries(next, q, q_stride);
        });
        consumer.write(work, sinks, output);
      }
      work = next;
    }
  }
}
