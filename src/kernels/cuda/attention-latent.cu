// latentAttention for Hopper. All heads read the same keys, so 64 rows of queries are 64 (token, head) pairs, whatever their
// number. Two groups of four warps compute the same scores; each sums half of the values' columns. HEADS: query heads.
#include "attention-share.cuh"
#include "attention-tile.cuh"
#include "barrier.cuh"
#include "query-tiles.cuh"
#include "wgmma-fragments.cuh"

constexpr int kThreads = 256, kRows = 64, kKeys = 64, kTiles = kKeys / kTileRows;
constexpr int kRowsUsed = HEADS < kRows ? HEADS : kRows, kRowGroups = (HEADS + kRows - 1) / kRows;
/// Columns in panels of 64, [64 rows][128 bytes] each: first the rotary ones, then the latent.
constexpr int kRotaryPanels = HEAD_DIM / 64, kPanels = kRotaryPanels + VALUE_HEAD_DIM / 64;
constexpr int kPanelBytes = kRows * 128, kTilePanelBytes = kTileRows * 128, kGroupBytes = kPanels * kPanelBytes;
/// Stages of codes are tiles as they lie in the cache; what products read is behind the queries, ahead of the stages.
constexpr int kTileBytes = kKeyTileBytes + kValueTileBytes;
constexpr int kStageBytes = kHasCodes ? kTiles * kTileBytes : kGroupBytes;
constexpr int kFirstStage = kGroupBytes + (kHasCodes ? kGroupBytes : 0);
constexpr int kColumns = VALUE_HEAD_DIM / 2;
using Attention = WarpAttention<kColumns>;

/// Rows of queries, `first` counting (token, head) pairs of the step.
struct Rows {
  const X* q;
  const X* latent_q;
  i64 q_stride, latent_q_stride;
  int first, count, past;  // position = token + past

  __device__ __forceinline__ int token(int row) const { return (first + row) / HEADS; }
  __device__ __forceinline__ int head(int row) const { return (first + row) % HEADS; }
  __device__ __forceinline__ int position(int row) const { return token(min(row, count - 1)) + past; }

  /// 16 bytes of a row's panel.
  __device__ __forceinline__ uint4 piece_at(int row, int panel, int piece) const {
    if (row >= count) return make_uint4(0, 0, 0, 0);
    const X* source = panel < kRotaryPanels
                          ? q + token(row) * q_stride + head(row) * HEAD_DIM + 64 * panel
                          : latent_q + token(row) * latent_q_stride + head(row) * VALUE_HEAD_DIM + 64 * (panel - kRotaryPanels);
    return *reinterpret_cast<const uint4*>(source + 8 * piece);
  }

  /// A row's unit; eight neighbouring threads work together.
  __device__ __forceinline__ QueryUnit unit_of(int row) const {
    float absmax = 0.0f;
    for (int panel = 0; panel < kPanels; panel++) {
      const uint4 piece = piece_at(row, panel, threadIdx.x % 8);
      absmax = fmaxf(absmax, fmaxf(fmaxf(QueryUnit::absmax(piece.x), QueryUnit::absmax(piece.y)),
                                   fmaxf(QueryUnit::absmax(piece.z), QueryUnit::absmax(piece.w))));
    }
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2)
      absmax = fmaxf(absmax, __shfl_xor_sync(0xffffffffu, absmax, distance));
    return QueryUnit(absmax);
  }

  /// Factors of queries into panels, and their units.
  __device__ __forceinline__ void load(u8* panels, float* units) const {
    for (int row = threadIdx.x / 8; row < kRows; row += kThreads / 8) {
      QueryUnit unit;
      if constexpr (!QueryUnit::kIsOne) unit = unit_of(row);
      const int piece = threadIdx.x % 8;
      if (piece == 0) units[row] = unit.value;
      for (int panel = 0; panel < kPanels; panel++) {
        const uint4 x = piece_at(row, panel, piece);
        *reinterpret_cast<uint4*>(panels + panel * kPanelBytes + row * 128 + (piece ^ row % 8) * 16) =
            make_uint4(unit.divide(x.x), unit.divide(x.y), unit.divide(x.z), unit.divide(x.w));
      }
    }
    fence_async_proxy();
  }
};

/// Groups of keys and latents of one sequence on their way through shared memory, [STAGES][kStageBytes].
struct Ring {
  u8* memory;
  u64* barriers;
  int stage, parity;

  __device__ __forceinline__ u8* at(int index) const { return memory + index * kStageBytes; }

  /// Warp 0 fills a stage with a group, up to tile `last_tile`.
  __device__ __forceinline__ void fill(int index, int group, const C* keys, const C* values, const int* block_table,
                                       int last_tile) const {
    const int num_tiles = min(kTiles, last_tile + 1 - group * kTiles);
    if (threadIdx.x == 0) announce_bytes(barriers + index, num_tiles * (kHasCodes ? kTileBytes : kPanels * kTilePanelBytes));
    __syncwarp();
    const auto key_tile = [&](int t) { return keys + tile_start(block_table, group * kTiles + t, 0, 1, HEAD_DIM); };
    const auto value_tile = [&](int t) { return values + tile_start(block_table, group * kTiles + t, 0, 1, VALUE_HEAD_DIM); };
    if constexpr (kHasCodes) {
      const int t = threadIdx.x / 2;
      if (t >= num_tiles) return;
      u8* target = at(index) + t * kTileBytes;
      if (threadIdx.x % 2 == 0) copy_bulk(target, key_tile(t), kKeyTileBytes, barriers + index);
      else copy_bulk(target + kKeyTileBytes, value_tile(t), kValueTileBytes, barriers + index);
    } else {
      for (int i = threadIdx.x; i < num_tiles * kPanels; i += 32) {
        const int t = i / kPanels, panel = i % kPanels, latent_panel = panel - kRotaryPanels;
        const C* source = latent_panel < 0 ? key_tile(t) + 64 * kTileRows * panel : value_tile(t) + 64 * kTileRows * latent_panel;
        copy_bulk(at(index) + panel * kPanelBytes + t * kTilePanelBytes, source, kTilePanelBytes, barriers + index);
      }
    }
  }

  __device__ __forceinline__ void advance() {
    stage = (stage + 1) % STAGES;
    if (stage == 0) parity ^= 1;
  }
};

/// A thread's rows g and g + 8 among the block's.
__device__ __forceinline__ int row_of(int half) { return threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4 + 8 * half; }

/// Factors of a group's codes in panels; zeros in rows `num_seen` and up.
template <typename Codes = C> __device__ __forceinline__ void widen_group(u8* panels, const u8* stage, int num_seen) {
  const auto place_in = [](u8* first_panel) {
    return [=](int t, int row, int at) {
      return first_panel + at / 128 * kPanelBytes + (t * kTileRows + row) * 128 + (at % 128 / 16 ^ row % 8) * 16;
    };
  };
  widen_tiles<kTiles, kKeyRowBytes, kThreads, Codes>(stage, kTileBytes, num_seen, place_in(panels));
  widen_tiles<kTiles, kValueRowBytes, kThreads, Codes>(stage + kKeyTileBytes, kTileBytes, num_seen,
                                                       place_in(panels + kRotaryPanels * kPanelBytes));
}

__device__ __forceinline__ void multiply_keys(float (&scores)[kKeys / 8][4], const u8* queries, const u8* keys) {
#pragma unroll
  for (int panel = 0; panel < kPanels; panel++) {
    const u64 a = describe_panel(queries + panel * kPanelBytes, 128), b = describe_panel(keys + panel * kPanelBytes, 128);
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma<8>(scores, a + 2 * k, b + 2 * k, panel + k > 0);
  }
}

__device__ __forceinline__ void add_values(float (&sum)[kColumns / 8][4], const u32 (&weights)[kTiles][4], const u8* keys) {
  const u8* values = keys + (kRotaryPanels + threadIdx.x / 128 * (kColumns / 64)) * kPanelBytes;
#pragma unroll
  for (int panel = 0; panel < kColumns / 64; panel++)
#pragma unroll
    for (int t = 0; t < kTiles; t++)
      wgmma<8, 1>(sum + 8 * panel, weights[t], describe_panel(values + panel * kPanelBytes + t * kTilePanelBytes, 128), true);
}

/// The queries against groups [first_group, end_group) of their sequence.
__device__ __forceinline__ void attend(Attention& attention, const Rows& rows, u8* queries, Ring& ring, const C* keys,
                                       const C* values, const int* block_table, int first_group, int end_group,
                                       const ScoreRule& rule) {
  const int last = rows.position(rows.count - 1), first = rows.position(0);
  const auto fill = [&](int ahead, int group) {
    if (threadIdx.x < 32 && group < end_group)
      ring.fill((ring.stage + ahead) % STAGES, group, keys, values, block_table, last / kTileRows);
  };
  __shared__ float units[kRows];
  for (int i = 0; i < STAGES; i++) fill(i, first_group + i);
  rows.load(queries, units);
  __syncthreads();
  attention.clear();
  attention.unit[0] = QueryUnit(units[row_of(0)]), attention.unit[1] = QueryUnit(units[row_of(1)]);
  const auto rule_of = [&](int) { return rule; };
  const int positions[2] = {rows.position(row_of(0)), rows.position(row_of(1))};
  const auto position_of = [&](int half) { return positions[half]; };
  for (int group = first_group; group < end_group; group++) {
    u8* stage = ring.at(ring.stage);
    const u8* panels = kHasCodes ? queries + kGroupBytes : stage;
    const int first_key = group * kKeys;
    wait_barrier(ring.barriers + ring.stage, ring.parity);
    if constexpr (kHasCodes) {
      widen_group(queries + kGroupBytes, stage, last + 1 - first_key);
      fence_async_proxy();
      __syncthreads();
      fill(0, group + STAGES);
    } else if (first_key + kKeys > last + 1) {
      // What lies behind the sequence's end may be no number.
      const int num_seen = last + 1 - first_key;
      for (int i = threadIdx.x; i < (kKeys - num_seen) * kPanels * 8; i += kThreads) {
        const int row = num_seen + i / (kPanels * 8), panel = i / 8 % kPanels;
        *reinterpret_cast<uint4*>(stage + panel * kPanelBytes + row * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
      }
      fence_async_proxy();
      __syncthreads();
    }
    float scores[kKeys / 8][4];
    begin_products();
    multiply_keys(scores, queries, panels);
    commit_products();
    wait_products<0>();
    float keep[2];
    if (first_key + kKeys <= first + 1)
      attention.template weigh<kKeys / 8, false>(scores, keep, first_key, rule_of, position_of);
    else
      attention.template weigh<kKeys / 8, true>(scores, keep, first_key, rule_of, position_of);
    attention.rescale(keep);
    u32 weights[kTiles][4];
#pragma unroll
    for (int t = 0; t < kTiles; t++) attention.pack_weights(weights[t], scores[2 * t], scores[2 * t + 1]);
    settle(attention.sum);
    begin_products();
    add_values(attention.sum, weights, panels);
    commit_products();
    wait_products<0>();
    __syncthreads();
    if constexpr (!kHasCodes) fill(0, group + STAGES);
    ring.advance();
  }
  attention.finish(rule_of);
}

__device__ __forceinline__ void write_results(const Attention& attention, const Rows& rows, const Output& output) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row_of(half);
    if (row >= rows.count) continue;
    const int column = threadIdx.x / 128 * kColumns;
    attention.results(half, -INFINITY, [&](int d, float low, float high) {
      output.put(rows.token(row), rows.head(row), column + d, {low, high});
    });
  }
}

using ResultPart = Part<kRowsUsed, VALUE_HEAD_DIM>;

__device__ __forceinline__ void write_part(const Attention& attention, ResultPart part) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row_of(half), column = threadIdx.x / 128 * kColumns;
    if (row >= kRowsUsed) continue;
#pragma unroll
    for (int i = 0; i < kColumns / 8; i++)
      *reinterpret_cast<float2*>(part.sums + row * VALUE_HEAD_DIM + column + 8 * i + threadIdx.x % 4 * 2) =
          make_float2(attention.sum[i][2 * half], attention.sum[i][2 * half + 1]);
    if (threadIdx.x % 4 == 0 && column == 0) part.weights()[row] = make_float2(attention.top[half], attention.total[half]);
  }
}

__device__ __forceinline__ Ring start_ring(u8* memory, u64* barriers) {
  if (threadIdx.x < STAGES) {
    init_barrier(barriers + threadIdx.x, 1);
    publish_barriers();
  }
  __syncthreads();
  return {memory, barriers, 0, 0};
}

/// Sequences with several queries. Grid [query tiles, 2 · heads]: the rows of a tile of 128 tokens; the last see most and go first.
extern "C" __global__ void __launch_bounds__(kThreads)
    latent_prefill(const int* num_query_tiles, const Queries* query_tiles, const X* q, i64 q_stride, Y* y, i64 y_stride,
                   const C* keys, const C* values, const int* block_tables, const int* max_blocks_per_seq, float scale,
                   const X* latent_q, i64 latent_q_stride) {
  extern __shared__ __align__(1024) u8 memory[];  // queries, of codes a group's factors, the ring
  __shared__ u64 barriers[STAGES];
  const int query_tile = blockIdx.x;
  let_next_start();
  wait_for_previous();
  if (query_tile >= *num_query_tiles) return;
  const Queries queries = query_tiles[query_tile];
  const int first_row = queries.first * HEADS + (2 * HEADS - 1 - blockIdx.y) * kRows;
  const int count = min(kRows, min(queries.first + 2 * kRows, queries.end) * HEADS - first_row);
  if (count <= 0) return;
  const Rows rows{q, latent_q, q_stride, latent_q_stride, first_row, count, queries.past};
  const Output output{y, y_stride, nullptr, 0, nullptr, 0};
  Ring ring = start_ring(memory + kFirstStage, barriers);
  Attention attention;
  attend(attention, rows, memory, ring, keys, values, block_tables + i64(queries.seq) * *max_blocks_per_seq, 0,
         rows.position(count - 1) / kKeys + 1, ScoreRule{scale, 0.0f, 0.0f, 0});
  write_results(attention, rows, output);
}

/// Sequences with one query. Grid [blocks]: as many as run at once, each a worker of attention-share.cuh.
extern "C" __global__ void __launch_bounds__(kThreads)
    latent_decode(const int* num_seqs, const X* q, i64 q_stride, Y* y, i64 y_stride, const C* keys, const C* values,
                  const int* block_tables, const int* max_blocks_per_seq, const int* cu_seqlens_q, const int* context_lens,
                  float scale, const X* latent_q, i64 latent_q_stride, float* part_floats, int* arrivals) {
  extern __shared__ __align__(1024) u8 memory[];  // queries, of codes a group's factors, the ring
  __shared__ u64 barriers[STAGES];
  __shared__ int is_last;
  const Output output{y, y_stride, nullptr, 0, nullptr, 0};
  const ScoreRule rule{scale, 0.0f, 0.0f, 0};
  const Decodes<kKeys> decodes{cu_seqlens_q, context_lens, *num_seqs, kRowGroups, rule};
  const int worker = blockIdx.x;
  const Shares shares(decodes.count(), gridDim.x);
  int index = shares.begin(worker);
  const int end = shares.begin(worker + 1);
  Cursor<kKeys> at;
  if (index < end) at.seek(decodes, index);
  let_next_start();
  wait_for_previous();
  if (index == end) return;
  Ring ring = start_ring(memory + kFirstStage, barriers);
  const PartsInMemory parts{part_floats, arrivals};
  Attention attention;
  while (true) {
    const int token = cu_seqlens_q[at.seq], first_row = at.head * kRows;
    const Rows rows{q,
                    latent_q,
                    q_stride,
                    latent_q_stride,
                    token * HEADS + first_row,
                    min(kRowsUsed, HEADS - first_row),
                    context_lens[at.seq] - 1 - token};
    const Sharers sharers(at, index, shares);
    const int count = min(end - index, at.groups.y - at.group);
    attend(attention, rows, memory, ring, keys, values, block_tables + i64(at.seq) * *max_blocks_per_seq, at.group,
           at.group + count, rule);
    if (sharers.is_one()) {
      write_results(attention, rows, output);
    } else {
      write_part(attention, parts.at<ResultPart>(worker, sharers));
      __syncthreads();
      if (threadIdx.x == 0) is_last = parts.arrive(sharers);
      __syncthreads();
      if (is_last)
        merge_parts<kRowsUsed, VALUE_HEAD_DIM, kThreads>(
            sharers.last - sharers.first + 1,
            [&](int i) { return parts.at<ResultPart>(sharers.first + i, sharers).sums; }, threadIdx.x,
            [](int) { return -INFINITY; },
            [&](int row, int d, const Merger& merged) {
              if (row >= rows.count) return;
              merged.results([&](const float(&values)[4]) { output.put(rows.token(row), rows.head(row), d, values); });
            });
    }
    index += count;
    if (index == end) return;
    at.advance(decodes);
    __syncthreads();
  }
}
