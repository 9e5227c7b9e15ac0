// attention of sequences with one query in the step. The query heads of a key head are the rows of one tile, so keys and
// values are read once; the context is split over blocks, and inside a block over warps with rings of tiles of their own.
// WARPS, STAGES: the rings; GROUP: query heads per key head.
#include "attention-tile.cuh"

constexpr int kKeys = 16, kRows = 16;
constexpr int kTile = kKeys * (kKeyStride + kValueStride);  // elements of a tile of keys and values
constexpr int kGroupTiles = (GROUP + kRows - 1) / kRows;
/// Floats of a partial result: the weighted sum, the largest score, the total weight.
constexpr int kPartial = VALUE_HEAD_DIM + 2;

/// Grid [splits, key heads · kGroupTiles, sequences]. Partial results go to [numSeqs, numHeads, splits, kPartial].
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    attention_decode(const int* num_seqs, const C* q, i64 q_stride, C* y, i64 y_stride, const C* keys, const C* values,
                     const int* block_tables, const int* max_blocks_per_seq, const int* cu_seqlens_q,
                     const int* context_lens, const float* slopes, const W* sinks, int num_heads, int num_kv_heads,
                     float scale, float softcap, int window, float* partials) {
  extern __shared__ __align__(16) u8 memory[];
  const int seq = blockIdx.z;
  if (seq >= *num_seqs || cu_seqlens_q[seq + 1] - cu_seqlens_q[seq] != 1) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int kv_head = blockIdx.y / kGroupTiles, first_row = blockIdx.y % kGroupTiles * kRows;
  const int num_rows = min(kRows, GROUP - first_row), first_head = kv_head * GROUP + first_row;
  const int token = cu_seqlens_q[seq], position = context_lens[seq] - 1;
  const int* block_table = block_tables + i64(seq) * *max_blocks_per_seq;
  const auto rule_of = [&](int row) {
    return ScoreRule{scale, softcap, slopes && row < num_rows ? slopes[first_head + row] : 0.0f, window};
  };
  C* ring = reinterpret_cast<C*>(memory) + warp * STAGES * kTile;

  copy_rows<kRows, HEAD_DIM, kKeyDim, kKeyStride>(ring, keys, lane, 32, [&](int row) {
    return row < num_rows ? q + token * q_stride + (first_head + row) * HEAD_DIM : nullptr;
  });
  commit_copies();
  wait_copies<0>();
  __syncwarp();
  WarpAttention attention;
  attention.start(ring);
  __syncwarp();

  const int begin = rule_of(0).first_visible(position) / kKeys, end = position / kKeys + 1;
  const int share = (end - begin + gridDim.x - 1) / gridDim.x;
  const int split_begin = begin + blockIdx.x * share, split_end = min(end, split_begin + share);
  const auto copy_tile = [&](int tile, int stage) {
    if (tile < split_end) {
      C* target = ring + stage * kTile;
      copy_rows<kKeys, HEAD_DIM, kKeyDim, kKeyStride>(target, keys, lane, 32, [&](int row) {
        const int key = tile * kKeys + row;
        return key > position ? nullptr : keys + cache_offset(block_table, key, kv_head, num_kv_heads, HEAD_DIM);
      });
      copy_rows<kKeys, VALUE_HEAD_DIM, kValueDim, kValueStride>(
          target + kKeys * kKeyStride, values, lane, 32, [&](int row) {
            const int key = tile * kKeys + row;
            return key > position ? nullptr : values + cache_offset(block_table, key, kv_head, num_kv_heads, VALUE_HEAD_DIM);
          });
    }
    commit_copies();
  };
  for (int stage = 0; stage < STAGES - 1; stage++) copy_tile(split_begin + warp + stage * WARPS, stage);
  for (int tile = split_begin + warp, stage = 0; tile < split_end; tile += WARPS, stage = (stage + 1) % STAGES) {
    copy_tile(tile + (STAGES - 1) * WARPS, (stage + STAGES - 1) % STAGES);
    wait_copies<STAGES - 1>();
    __syncwarp();
    const C* at = ring + stage * kTile;
    attention.attend<kKeys>(
        at, at + kKeys * kKeyStride, tile * kKeys, [&](int half) { return rule_of(lane / 4 + 8 * half); },
        [&](int) { return position; });
    __syncwarp();
  }
  attention.finish();
  wait_copies<0>();
  __syncthreads();

  // The warps' results meet in shared memory: [WARPS][kRows][kPartial].
  float* results = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float* result = results + (warp * kRows + lane / 4 + 8 * half) * kPartial;
#pragma unroll
    for (int i = 0; i < kValueDim / 8; i++) {
      const int d = 8 * i + lane % 4 * 2;
      if (d < VALUE_HEAD_DIM) result[d] = attention.sum[i][2 * half], result[d + 1] = attention.sum[i][2 * half + 1];
    }
    if (lane % 4 == 0) result[VALUE_HEAD_DIM] = attention.top[half], result[VALUE_HEAD_DIM + 1] = attention.total[half];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < num_rows * VALUE_HEAD_DIM; i += WARPS * 32) {
    const int row = i / VALUE_HEAD_DIM, d = i % VALUE_HEAD_DIM, head = first_head + row;
    // A sink counts once: here if there is no other split, else where the splits meet.
    const float sink = sinks && gridDim.x == 1 ? to_float(sinks[head]) : -INFINITY;
    float top = sink, value = 0.0f, total = 0.0f;
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, results[(w * kRows + row) * kPartial + VALUE_HEAD_DIM]);
    for (int w = 0; w < WARPS; w++) {
      const float* result = results + (w * kRows + row) * kPartial;
      const float weight = top == -INFINITY ? 0.0f : exp2f((result[VALUE_HEAD_DIM] - top) * kLog2E);
      value += weight * result[d];
      total += weight * result[VALUE_HEAD_DIM + 1];
    }
    if (gridDim.x == 1) {
      total += exp2f((sink - top) * kLog2E);
      y[token * y_stride + head * VALUE_HEAD_DIM + d] = from_float<C>(value / total);
      continue;
    }
    float* partial = partials + ((i64(seq) * num_heads + head) * gridDim.x + blockIdx.x) * kPartial;
    partial[d] = value;
    if (d == 0) partial[VALUE_HEAD_DIM] = top, partial[VALUE_HEAD_DIM + 1] = total;
  }
}

/// Grid [sequences, heads].
extern "C" __global__ void attention_combine(const int* num_seqs, const int* cu_seqlens_q, const float* partials,
                                             const W* sinks, C* y, i64 y_stride, int num_heads, int num_splits) {
  const int seq = blockIdx.x, head = blockIdx.y;
  if (seq >= *num_seqs || cu_seqlens_q[seq + 1] - cu_seqlens_q[seq] != 1) return;
  const float* parts = partials + (i64(seq) * num_heads + head) * num_splits * kPartial;
  const float sink = sinks ? to_float(sinks[head]) : -INFINITY;
  float top = sink;
  for (int s = 0; s < num_splits; s++) top = fmaxf(top, parts[s * kPartial + VALUE_HEAD_DIM]);
  for (int d = threadIdx.x; d < VALUE_HEAD_DIM; d += blockDim.x) {
    float value = 0.0f, total = exp2f((sink - top) * kLog2E);
    for (int s = 0; s < num_splits; s++) {
      const float* part = parts + s * kPartial;
      const float weight = exp2f((part[VALUE_HEAD_DIM] - top) * kLog2E);
      value += weight * part[d];
      total += weight * part[VALUE_HEAD_DIM + 1];
    }
    y[i64(cu_seqlens_q[seq]) * y_stride + head * VALUE_HEAD_DIM + d] = from_float<C>(value / total);
  }
}
