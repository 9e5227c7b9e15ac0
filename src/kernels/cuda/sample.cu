// Sampling: one block per row of logits chooses or scores a token, as SamplingBatch documents. Nothing is sorted: places in
// the order of falling logits (equal ones by rising id) are found by histograms of counts or masses, first over distances
// from the largest logit, then over the bits of what is left. Masses are integers, so that sums do not depend on order.
#include "common.cuh"

constexpr int kThreads = 1024, kBuckets = 2048;
/// Buckets per temperature of distance; all beyond 32 temperatures share the last one.
constexpr float kBucketsPerUnit = 64.0f;
/// The mass of the most likely token; others have a share of it.
constexpr float kUnitMass = 1099511627776.0f;  // 2^40
#define NAN_VALUE __int_as_float(0x7fc00000)

/// Columns, in this order, and those of the results are `stride` elements apart.
enum Column {
  kTargetIds, kTemperature, kTopK, kTopP, kMinP, kRepetition, kPresence, kFrequency, kSeedLow, kSeedHigh, kPosition,
  kNumLogprobs, kBiasOffsets, kHistoryOffsets
};
enum Result { kTokenIds, kLogprobs, kRanks, kRowStatus };

/// Lists and results of the step, in page-locked host memory that differs from step to step.
struct Lists {
  const int* block_copies;
  const int* bias_ids;
  const float* bias_values;
  float* bias_saved;
  const int* history_ids;
  const int* history_counts;
  float* history_saved;
  int* top_ids;
  float* top_logprobs;
  i64 top_count;
  int* results;
};

__shared__ u64 shared_sums[kBuckets];
__shared__ u64 warp_sums[32];
__shared__ u64 found_before;
__shared__ int found_bucket;
__shared__ int found_id;

/// Uniform in [0, 1) from the first word of Philox-4x32-10 (Salmon et al., SC 2011) under counter (position, 0, 0, 0).
__device__ double uniform(u32 seed_low, u32 seed_high, u32 position) {
  u32 c0 = position, c1 = 0, c2 = 0, c3 = 0, k0 = seed_low, k1 = seed_high;
  for (int round = 0; round < 10; round++) {
    const u32 h0 = __umulhi(0xd2511f53u, c0), l0 = 0xd2511f53u * c0;
    const u32 h1 = __umulhi(0xcd9e8d57u, c2), l1 = 0xcd9e8d57u * c2;
    c0 = h1 ^ c1 ^ k0, c1 = l1, c2 = h0 ^ c3 ^ k1, c3 = l0;
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  return c0 / 4294967296.0;
}

/// Rises as the logit falls; zeros are equal.
__device__ __forceinline__ u32 falling_key(float logit) {
  const u32 bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}
__device__ __forceinline__ float logit_of(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key : ~key & 0x7fffffffu);
}

__device__ u64 reduce_block_u64(u64 value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  __syncthreads();
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  u64 total = 0;
  for (int w = 0; w < kThreads / 32; w++) total += warp_sums[w];
  return total;
}

/// The bucket in which the running total, `before` at first, reaches `wanted`, and the total before it.
__device__ void find_bucket(u64 before, u64 wanted) {
  __syncthreads();
  const int first = threadIdx.x * (kBuckets / kThreads), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u64 own = 0;
  for (int i = 0; i < kBuckets / kThreads; i++) own += shared_sums[first + i];
  u64 inclusive = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const u64 other = __shfl_up_sync(0xffffffffu, inclusive, distance);
    if (lane >= distance) inclusive += other;
  }
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  u64 running = before + inclusive - own;
  for (int w = 0; w < warp; w++) running += warp_sums[w];
  for (int i = 0; i < kBuckets / kThreads; i++) {
    const u64 next = running + shared_sums[first + i];
    if (running < wanted && next >= wanted) found_before = running, found_bucket = first + i;
    running = next;
  }
  __syncthreads();
}

/// A prefix of the order: all logits of smaller key, and the first `num_ties` (by id) of this key.
struct Prefix {
  u32 key;
  u64 num_ties;
  u64 before;  // measure of the smaller keys
};

struct Row {
  float* logits;
  int size;
  float largest;
  float inverse_temperature;

  __device__ __forceinline__ u64 mass(float logit) const {
    return u64(exp2f((logit - largest) * inverse_temperature * 1.44269504f) * kUnitMass);
  }
  __device__ __forceinline__ int bucket(float logit) const {
    return min(kBuckets - 1, int((largest - logit) * inverse_temperature * kBucketsPerUnit));
  }
  template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll 8
    for (int id = threadIdx.x; id < size; id += kThreads) f(id, logits[id]);
  }

  /// Adds each logit's measure to the bucket that `bucket_of` names (negative: none).
  template <typename F> __device__ void histogram(bool by_mass, F bucket_of) const {
    __syncthreads();
    for (int i = threadIdx.x; i < kBuckets; i += kThreads) shared_sums[i] = 0;
    __syncthreads();
    each([&](int, float logit) {
      const int b = bucket_of(logit);
      if (b >= 0) atomicAdd(&shared_sums[b], by_mass ? mass(logit) : 1ull);
    });
  }

  /// The shortest prefix whose measure reaches `wanted`; the whole row measures at least that.
  __device__ Prefix find(bool by_mass, u64 wanted) const {
    histogram(by_mass, [&](float logit) { return bucket(logit); });
    find_bucket(0, wanted);
    const int first_bucket = found_bucket;
    u32 key = 0;
    for (int shift = 21, bits = 11; bits > 0; bits = shift == 10 ? 10 : 11, shift = shift == 21 ? 10 : 0) {
      const u64 before = found_before;
      const u32 known = key;
      const int known_shift = shift + bits;
      histogram(by_mass, [&](float logit) {
        const u32 k = falling_key(logit);
        const bool matches = bucket(logit) == first_bucket && (known_shift == 32 || k >> known_shift == known);
        return matches ? int(k >> shift & (1u << bits) - 1) : -1;
      });
      find_bucket(before, wanted);
      key = key << bits | u32(found_bucket);
      if (shift == 0) break;
    }
    const u64 measure = by_mass ? mass(logit_of(key)) : 1;
    return {key, (wanted - found_before + measure - 1) / measure, found_before};
  }

  /// The id at which a prefix ends.
  __device__ int last_id(const Prefix& prefix) const {
    __shared__ int warp_counts[kThreads / 32];
    u64 wanted = prefix.num_ties;
    for (int start = 0; start < size; start += kThreads) {
      const int id = start + threadIdx.x;
      const bool matches = id < size && falling_key(logits[id]) == prefix.key;
      const u32 votes = __ballot_sync(0xffffffffu, matches);
      __syncthreads();
      if (threadIdx.x % 32 == 0) warp_counts[threadIdx.x / 32] = __popc(votes);
      __syncthreads();
      u64 place = __popc(votes & (2u << threadIdx.x % 32) - 1), total = 0;
      for (int w = 0; w < kThreads / 32; w++) {
        if (w < threadIdx.x / 32) place += warp_counts[w];
        total += warp_counts[w];
      }
      if (matches && place == wanted) found_id = id;
      if (total >= wanted) break;
      wanted -= total;
    }
    __syncthreads();
    return found_id;
  }

  /// Infinity where there is a NaN.
  __device__ float largest_logit() const {
    float value = -INFINITY;
    each([&](int, float logit) { value = fmaxf(value, logit != logit ? INFINITY : logit); });
    return reduce_block(value, -INFINITY, Max());
  }

  __device__ int first_of(float wanted) const {
    __syncthreads();
    if (threadIdx.x == 0) found_id = size;
    __syncthreads();
    each([&](int id, float logit) { if (logit == wanted) atomicMin(&found_id, id); });
    __syncthreads();
    return found_id;
  }

  __device__ float log_sum_exp() const {
    float sum = 0.0f;
    each([&](int, float logit) { sum += expf(logit - largest); });
    return largest + logf(reduce_block(sum, 0.0f, Sum()));
  }

  /// 1 for the most likely.
  __device__ int rank_of(int token) const {
    const float wanted = logits[token];
    u64 above = 0;
    each([&](int id, float logit) { above += logit > wanted || (logit == wanted && id < token); });
    return int(reduce_block_u64(above)) + 1;
  }
};

struct Sampling {
  const int* columns;
  int stride;
  int row;

  __device__ __forceinline__ int integer(Column column) const { return columns[column * stride + row]; }
  __device__ __forceinline__ float number(Column column) const { return __int_as_float(integer(column)); }
  __device__ __forceinline__ int end(Column offsets) const { return columns[offsets * stride + row + 1]; }
  /// Whether there are biases or penalties.
  __device__ __forceinline__ bool is_adjusted() const {
    return integer(kBiasOffsets) < end(kBiasOffsets) || integer(kHistoryOffsets) < end(kHistoryOffsets);
  }
};

/// Adds biases and penalties to the row, keeping what was there.
__device__ void adjust(float* logits, const Sampling& sampling, const Lists& lists) {
  // A token may have several biases.
  for (int i = sampling.integer(kBiasOffsets) + threadIdx.x; i < sampling.end(kBiasOffsets); i += kThreads)
    lists.bias_saved[i] = logits[lists.bias_ids[i]];
  __syncthreads();
  for (int i = sampling.integer(kBiasOffsets) + threadIdx.x; i < sampling.end(kBiasOffsets); i += kThreads)
    atomicAdd(&logits[lists.bias_ids[i]], lists.bias_values[i]);
  __syncthreads();
  const float repetition = sampling.number(kRepetition), presence = sampling.number(kPresence);
  const float frequency = sampling.number(kFrequency);
  for (int i = sampling.integer(kHistoryOffsets) + threadIdx.x; i < sampling.end(kHistoryOffsets); i += kThreads) {
    float& logit = logits[lists.history_ids[i]];
    const int count = lists.history_counts[i];
    lists.history_saved[i] = logit;
    const float repeated = logit > 0.0f ? logit / repetition : logit * repetition;
    logit = repeated - (count > 0 ? presence : 0.0f) - frequency * count;
  }
  __syncthreads();
}

/// The raw logits again.
__device__ void restore(float* logits, const Sampling& sampling, const Lists& lists) {
  __syncthreads();
  for (int i = sampling.integer(kHistoryOffsets) + threadIdx.x; i < sampling.end(kHistoryOffsets); i += kThreads)
    logits[lists.history_ids[i]] = lists.history_saved[i];
  __syncthreads();
  for (int i = sampling.integer(kBiasOffsets) + threadIdx.x; i < sampling.end(kBiasOffsets); i += kThreads)
    logits[lists.bias_ids[i]] = lists.bias_saved[i];
  __syncthreads();
}

/// What top-k and top-p leave, as a mass in the order of falling logits, then min-p.
__device__ u64 kept_mass(const Row& row, const Sampling& sampling) {
  const int top_k = sampling.integer(kTopK);
  const float top_p = sampling.number(kTopP), min_p = sampling.number(kMinP);
  u64 whole = 0;
  row.each([&](int, float logit) { whole += row.mass(logit); });
  u64 mass = reduce_block_u64(whole);
  Prefix kept{0xffffffffu, 0, mass};
  bool is_cut = false;
  if (top_k > 0 && top_k < row.size) {
    kept = row.find(false, top_k);
    u64 before = 0;
    row.each([&](int, float logit) { if (falling_key(logit) < kept.key) before += row.mass(logit); });
    kept.before = reduce_block_u64(before);
    mass = kept.before + kept.num_ties * row.mass(logit_of(kept.key));
    is_cut = true;
  }
  if (top_p < 1.0f) {
    const u64 wanted = max(1ull, u64(ceil(double(top_p) * double(mass))));
    kept = row.find(true, min(wanted, mass));
    mass = kept.before + kept.num_ties * row.mass(logit_of(kept.key));
    is_cut = true;
  }
  if (min_p <= 0.0f) return mass;
  // As a logit: weights near 1 differ by less than float32 can tell.
  const double least = row.largest + log(double(min_p)) * sampling.number(kTemperature);
  u64 likely = 0;
  row.each([&](int, float logit) {
    if (logit >= least && (!is_cut || falling_key(logit) < kept.key)) likely += row.mass(logit);
  });
  mass = reduce_block_u64(likely);
  if (!is_cut) return mass;
  const float tie = logit_of(kept.key);
  return tie >= least ? mass + kept.num_ties * row.mass(tie) : mass;
}

/// The row's token, or −1 if every token is banned. The largest logit is known.
__device__ int choose(Row& row, const Sampling& sampling) {
  if (row.largest == -INFINITY) return -1;
  const float temperature = sampling.number(kTemperature);
  if (temperature == 0.0f) return row.first_of(row.largest);
  row.inverse_temperature = fminf(1.0f / temperature, 1e30f);
  const u64 mass = kept_mass(row, sampling);
  const double u = uniform(sampling.integer(kSeedLow), sampling.integer(kSeedHigh), sampling.integer(kPosition));
  const u64 wanted = min(mass, u64(u * double(mass)) + 1);
  return row.last_id(row.find(true, wanted));
}

/// The most likely tokens one after the other, and their log-probabilities.
__device__ void report_top(const Row& row, int count, float log_normalizer, int* ids, float* logprobs) {
  u64 previous = 0;
  for (int i = 0; i < count; i++) {
    // Key and id in one number: the next one in order is the smallest above the last.
    u64 best = ~0ull;
    row.each([&](int id, float logit) {
      const u64 place = u64(falling_key(logit)) << 32 | u32(id);
      if ((i == 0 || place > previous) && place < best) best = place;
    });
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) best = min(best, __shfl_xor_sync(0xffffffffu, best, distance));
    __syncthreads();
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = best;
    __syncthreads();
    for (int w = 0; w < kThreads / 32; w++) best = min(best, warp_sums[w]);
    previous = best;
    if (threadIdx.x == 0) {
      const int id = best == ~0ull ? -1 : int(best & 0xffffffffu);
      ids[i] = id;
      logprobs[i] = id < 0 ? NAN_VALUE : row.logits[id] - log_normalizer;
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    sample(const int* num_rows, float* logits, i64 stride, int vocab_size, const int* columns, const Lists* lists,
           int* drawn, int column_stride) {
  wait_for_previous();
  if (blockIdx.x >= *num_rows) return;
  const Sampling sampling{columns, column_stride, int(blockIdx.x)};
  Row row{logits + blockIdx.x * stride, vocab_size, 0.0f, 1.0f};
  const auto report = [&](Result column, int value) {
    if (threadIdx.x == 0) lists->results[column * column_stride + blockIdx.x] = value;
  };
  const int num_logprobs = sampling.integer(kNumLogprobs);
  const int top_count = int(lists->top_count);
  int* top_ids = lists->top_ids + blockIdx.x * top_count;
  float* top_logprobs = lists->top_logprobs + blockIdx.x * top_count;
  for (int i = threadIdx.x; i < top_count; i += kThreads) top_ids[i] = -1, top_logprobs[i] = NAN_VALUE;
  report(kTokenIds, 0);
  if (threadIdx.x == 0) drawn[blockIdx.x] = 0;
  report(kLogprobs, __float_as_int(NAN_VALUE));
  report(kRanks, 0);
  report(kRowStatus, 0);

  const float raw_largest = row.largest_logit();
  if (isinf(raw_largest)) return report(kRowStatus, 1);
  int token = sampling.integer(kTargetIds);
  if (token < 0) {
    row.largest = raw_largest;
    if (sampling.is_adjusted()) {
      adjust(row.logits, sampling, *lists);
      row.largest = row.largest_logit();
    }
    token = choose(row, sampling);
    if (sampling.is_adjusted()) restore(row.logits, sampling, *lists);
  }
  if (token < 0) return report(kRowStatus, 2);
  report(kTokenIds, token);
  if (threadIdx.x == 0) drawn[blockIdx.x] = token;
  if (num_logprobs < 0) return;
  row.largest = raw_largest;
  const float log_normalizer = row.log_sum_exp();
  report(kLogprobs, __float_as_int(row.logits[token] - log_normalizer));
  report(kRanks, row.rank_of(token));
  report_top(row, num_logprobs, log_normalizer, top_ids, top_logprobs);
}
