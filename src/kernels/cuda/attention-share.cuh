// How decodes are spread over the GPU. All groups of keys that queries see, of all sequences and heads, stand in one row; every
// worker (a warp, or a block) takes an equal share of it, whatever the contexts' lengths. Where shares part a context, each
// worker leaves its part of the result, and the last to come merges them.
#pragma once
#include "attention-score.cuh"
#include "common.cuh"

/// How contexts are split: into one share for each worker, of the same size or one group more. The row may be cut into equal
/// units before, with as many workers each, so that no share reaches from one into the next. Nothing else decides it, so the
/// order of sums depends on the step's batch here alone.
struct Shares {
  int num_groups, unit, workers, least, num_larger;

  __device__ __forceinline__ Shares(int num_groups, int num_workers, int num_units = 1)
      : num_groups(num_groups),
        unit(num_groups / num_units),
        workers(num_workers / num_units),
        least(unit / workers),
        num_larger(unit % workers) {}

  /// First group of a worker's share.
  __device__ __forceinline__ int begin(int worker) const {
    const int in_unit = worker % workers;
    return min(worker / workers * unit + in_unit * least + min(in_unit, num_larger), num_groups);
  }
  /// Whose share a group is in.
  __device__ __forceinline__ int owner(int group) const {
    const int in_unit = group % unit, first = group / unit * workers, behind_larger = num_larger * (least + 1);
    return first +
           (in_unit < behind_larger ? in_unit / (least + 1) : num_larger + (in_unit - behind_larger) / max(least, 1));
  }
};

/// The step's sequences with one query, whose keys are taken kKeys at a time.
template <int kKeys> struct Decodes {
  const int* cu_seqlens_q;
  const int* context_lens;
  int num_seqs, num_heads;  // heads: those that keys are read for one by one
  ScoreRule rule;

  /// Groups that the query of a sequence sees, [x, y); none if it has several queries.
  __device__ __forceinline__ int2 groups_of(int seq) const {
    const int known = min(seq, num_seqs - 1), num_queries = cu_seqlens_q[known + 1] - cu_seqlens_q[known];
    const int position = context_lens[known] - 1;
    if (seq != known || num_queries != 1) return make_int2(0, 0);
    return make_int2(rule.first_visible(position) / kKeys, position / kKeys + 1);
  }

  /// Groups in the whole row; every warp counts for itself.
  __device__ __forceinline__ int count() const {
    int sum = 0;
#pragma unroll 4
    for (int seq = threadIdx.x % 32; seq < num_seqs; seq += 32) {
      const int2 groups = groups_of(seq);
      sum += groups.y - groups.x;
    }
    return __reduce_add_sync(0xffffffffu, sum) * num_heads;
  }
};

/// A place in the row.
template <int kKeys> struct Cursor {
  int seq, head, group;
  int2 groups;  // of the sequence

  /// To place `index`; the threads of a warp work together.
  __device__ __forceinline__ void seek(const Decodes<kKeys>& decodes, int index) {
    for (seq = 0;; seq += 32) {
      const int lane = threadIdx.x % 32;
      const int2 own = decodes.groups_of(seq + lane);
      const int count = (own.y - own.x) * decodes.num_heads;
      int behind = count;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int value = __shfl_up_sync(0xffffffffu, behind, distance);
        if (lane >= distance) behind += value;
      }
      const u32 found = __ballot_sync(0xffffffffu, index < behind);
      if (found == 0) {
        index -= __shfl_sync(0xffffffffu, behind, 31);
        continue;
      }
      const int owner = __ffs(found) - 1;
      groups = make_int2(__shfl_sync(0xffffffffu, own.x, owner), __shfl_sync(0xffffffffu, own.y, owner));
      index -= __shfl_sync(0xffffffffu, behind - count, owner);
      seq += owner;
      head = index / (groups.y - groups.x);
      group = groups.x + index % (groups.y - groups.x);
      return;
    }
  }

  /// To the next group; there is one.
  __device__ __forceinline__ void next(const Decodes<kKeys>& decodes) {
    if (++group == groups.y) advance(decodes);
  }

  /// To the first group of the next head; there is one.
  __device__ __forceinline__ void advance(const Decodes<kKeys>& decodes) {
    if (++head == decodes.num_heads) {
      head = 0;
      do groups = decodes.groups_of(++seq);
      while (groups.x == groups.y);
    }
    group = groups.x;
  }
};

/// The workers that share the result of a cursor's sequence and head, the cursor being at place `index` of the row.
struct Sharers {
  int first, last;

  template <int kKeys> __device__ __forceinline__ Sharers(const Cursor<kKeys>& cursor, int index, const Shares& shares) {
    const int begin = index - (cursor.group - cursor.groups.x);
    first = shares.owner(begin), last = shares.owner(begin + cursor.groups.y - cursor.groups.x - 1);
  }
  __device__ __forceinline__ bool is_one() const { return first == last; }
};

/// Four columns of a row's result, while its parts are added.
struct Merger {
  float top, total, sum[4];

  /// `sink`: a binary logarithm, or minus infinity.
  __device__ __forceinline__ void start(float sink) {
    top = sink, total = sink == -INFINITY ? 0.0f : 1.0f;
    sum[0] = sum[1] = sum[2] = sum[3] = 0.0f;
  }

  /// The first `count` of kMost parts at once: one by one each would wait for the powers before.
  template <int kMost>
  __device__ __forceinline__ void add(const float2 (&weights)[kMost], const float4 (&values)[kMost], int count) {
    float new_top = top;
#pragma unroll
    for (int i = 0; i < kMost; i++)
      if (i < count) new_top = fmaxf(new_top, weights[i].x);
    const float reference = new_top == -INFINITY ? 0.0f : new_top, keep = exp2_fast(top - reference);
    top = new_top, total *= keep;
#pragma unroll
    for (int j = 0; j < 4; j++) sum[j] *= keep;
#pragma unroll
    for (int i = 0; i < kMost; i++) {
      const float share = i < count ? exp2_fast(weights[i].x - reference) : 0.0f;
      total += weights[i].y * share;
      sum[0] += values[i].x * share, sum[1] += values[i].y * share;
      sum[2] += values[i].z * share, sum[3] += values[i].w * share;
    }
  }

  /// f(the four results).
  template <typename F> __device__ __forceinline__ void results(F f) const {
    const float values[] = {sum[0] / total, sum[1] / total, sum[2] / total, sum[3] / total};
    f(values);
  }
};

/// A part of a result: weighted sums [kRows][kColumns], then (largest score, total weight) of each row.
template <int kRows, int kColumns> struct Part {
  static constexpr int kFloats = (kRows * (kColumns + 2) + 3) / 4 * 4;
  float* sums;

  __device__ __forceinline__ float2* weights() const { return reinterpret_cast<float2*>(sums + kRows * kColumns); }
};

/// Adds `count` parts in their order: f(row, column, merged) takes the sums of four columns. `part_at(i)`: a part's floats;
/// `sink_of(row)`: a binary logarithm. A thread works on several sums at once, to have many loads under way.
template <int kRows, int kColumns, int kThreads, typename P, typename S, typename F>
__device__ __forceinline__ void merge_parts(int count, P part_at, int thread, S sink_of, F f) {
  constexpr int kPieces = kColumns / 4, kSums = kRows * kPieces, kTurns = (kSums + kThreads - 1) / kThreads;
  constexpr int kAtOnce = kTurns < 8 ? kTurns : 8, kParts = kAtOnce < 4 ? 8 / kAtOnce : 2;
  for (int first = thread; first < kSums; first += kAtOnce * kThreads) {
    Merger merged[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) merged[k].start(sink_of((first + k * kThreads) / kPieces));
    for (int j = 0; j < count; j += kParts) {
#pragma unroll
      for (int k = 0; k < kAtOnce; k++) {
        const int i = min(first + k * kThreads, kSums - 1);
        float2 weights[kParts];
        float4 values[kParts];
#pragma unroll
        for (int n = 0; n < kParts; n++) {
          const Part<kRows, kColumns> part{part_at(min(j + n, count - 1))};
          weights[n] = part.weights()[i / kPieces], values[n] = *reinterpret_cast<const float4*>(part.sums + 4 * i);
        }
        merged[k].add(weights, values, count - j);
      }
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      const int i = first + k * kThreads;
      if (i < kSums) f(i / kPieces, i % kPieces * 4, merged[k]);
    }
  }
}

/// Where workers leave parts: two at most, of the result that their share begins in and of the one that goes on behind it.
struct PartsInMemory {
  float* floats;  // [workers][2][Part::kFloats]
  int* arrivals;  // [workers] zeros, before and after

  template <typename Part> __device__ __forceinline__ Part at(int worker, const Sharers& sharers) const {
    return {floats + (i64(worker) * 2 + (worker == sharers.first)) * Part::kFloats};
  }

  /// Tells that a part is complete, by one thread. Whether it was the last.
  __device__ __forceinline__ bool arrive(const Sharers& sharers) const {
    int num_before;
    // A release of what the others who met this thread at a barrier have written, and an acquire for them.
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;"
                 : "=r"(num_before)
                 : "l"(arrivals + sharers.first)
                 : "memory");
    if (num_before < sharers.last - sharers.first) return false;
    arrivals[sharers.first] = 0;
    return true;
  }
};
