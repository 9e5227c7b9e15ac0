// Sampling. Nothing is sorted but what a cut or the draw falls into: a histogram over falling logits finds that place,
// and only the tokens of its bucket are ranked.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "vector-math.h"

namespace needletail {
namespace {

constexpr int32_t kNumBuckets = 1024;
/// Beyond this many temperatures below the largest logit (a weight of 1e-14) all share the last bucket.
constexpr float kMaxDistance = 32.0f;

/// First word of Philox-4x32-10 under counter (position, 0, 0, 0) and key (seed), as a number in [0, 1).
double uniform(uint32_t seed_low, uint32_t seed_high, uint32_t position) {
  uint32_t counter[4] = {position, 0, 0, 0};
  uint32_t key[2] = {seed_low, seed_high};
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(0xd2511f53u) * counter[0];
    const uint64_t b = uint64_t(0xcd9e8d57u) * counter[2];
    const uint32_t next[4] = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b),
                              uint32_t(a >> 32) ^ counter[3] ^ key[1], uint32_t(a)};
    std::memcpy(counter, next, sizeof counter);
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  return counter[0] / 4294967296.0;
}

struct Extremes {
  float largest;
  float smallest;  // of those above −Infinity
  bool has_nan;
};

Extremes find_extremes(const float* logits, int32_t size) {
  Floats largest = broadcast(-INFINITY), smallest = broadcast(INFINITY);
  Ints nan = {};
  const int32_t whole = size / kLanes * kLanes;
  for (int32_t i = 0; i < whole; i += kLanes) {
    const Floats v = load(logits + i);
    nan |= v != v;
    largest = max(largest, v);
    smallest = min(smallest, select(v == -INFINITY, broadcast(INFINITY), v));
  }
  Extremes result{max_lanes(largest), -max_lanes(-smallest), false};
  for (int l = 0; l < kLanes; l++) result.has_nan |= nan[l] != 0;
  for (int32_t i = whole; i < size; i++) {
    result.has_nan |= logits[i] != logits[i];
    result.largest = std::max(result.largest, logits[i]);
    if (logits[i] != -INFINITY) result.smallest = std::min(result.smallest, logits[i]);
  }
  return result;
}

/// Any of `size` elements (a constant, so that this becomes a few vector instructions) satisfies `matches`.
template <int kSize, typename T, typename F>
bool any_of(const T* elements, F matches) {
  int found = 0;
  for (int i = 0; i < kSize; i++) found |= matches(elements[i]);
  return found;
}

/// `visit(i)` for each rising i below `size` with `matches(elements[i])`; fast where these are few.
template <typename T, typename F, typename G>
void for_each_match(const T* elements, int32_t size, F matches, G visit) {
  constexpr int32_t kBlock = 64;
  int32_t i = 0;
  for (; i + kBlock <= size; i += kBlock) {
    if (!any_of<kBlock>(elements + i, matches)) continue;
    for (int32_t j = i; j < i + kBlock; j++) if (matches(elements[j])) visit(j);
  }
  for (; i < size; i++) if (matches(elements[i])) visit(i);
}

int32_t index_of(const float* logits, float value) {
  int32_t i = 0;
  while (!any_of<1>(logits + i, [value](float logit) { return logit == value; })) i++;
  return i;
}

/// Falling logit, equal ones by rising id.
struct RankOrder {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  }
};

/// Tokens in the order of RankOrder, of which the first are the whole of `bucket` buckets and `inside` of the next one.
struct Prefix {
  int32_t bucket;
  int32_t inside;
  double mass;

  bool operator<(const Prefix& other) const {
    return bucket != other.bucket ? bucket < other.bucket : inside < other.inside;
  }
};

/// Unnormalised probabilities, the largest 1, and their histogram over buckets of falling logits.
class Distribution {
 public:
  /// Memory for one row of scratch.
  static int64_t bytes(int64_t vocab_size) {
    const int64_t padded = (vocab_size + 63) / 64 * 64;
    return sizeof(Bucket) * kNumBuckets + padded * int64_t(sizeof(float) + sizeof(int32_t) + sizeof(uint16_t));
  }

  Distribution(const float* logits, int32_t size, const Extremes& extremes, float temperature, uint8_t* scratch)
      : logits_(logits), size_(size) {
    const int64_t padded = (int64_t(size) + 63) / 64 * 64;
    buckets_ = reinterpret_cast<Bucket*>(scratch);
    weights_ = reinterpret_cast<float*>(buckets_ + kNumBuckets);
    members_ = reinterpret_cast<int32_t*>(weights_ + padded);
    bucket_of_ = reinterpret_cast<uint16_t*>(members_ + padded);
    weigh(extremes, temperature);
    count();
  }

  Prefix whole() const { return {kNumBuckets, 0, total_}; }

  /// The k first tokens.
  Prefix first(int32_t k) {
    Prefix prefix{0, 0, 0};
    for (; prefix.bucket < kNumBuckets; prefix.bucket++) {
      const Bucket& bucket = buckets_[prefix.bucket];
      if (bucket.count >= k) break;
      k -= bucket.count;
      prefix.mass += bucket.mass;
    }
    if (prefix.bucket == kNumBuckets) return prefix;
    const int32_t* members = rank(prefix.bucket);
    for (; prefix.inside < k; prefix.inside++) prefix.mass += weights_[members[prefix.inside]];
    return prefix;
  }

  /// The shortest prefix of at least `mass`.
  Prefix reaching(double mass) {
    Prefix prefix{0, 0, 0};
    for (; prefix.bucket < kNumBuckets; prefix.bucket++) {
      const Bucket& bucket = buckets_[prefix.bucket];
      if (prefix.mass + bucket.mass >= mass) break;
      prefix.mass += bucket.mass;
    }
    if (prefix.bucket == kNumBuckets) return prefix;
    const int32_t* members = rank(prefix.bucket);
    while (prefix.mass < mass && prefix.inside < buckets_[prefix.bucket].count) {
      prefix.mass += weights_[members[prefix.inside++]];
    }
    return prefix;
  }

  /// Tokens of at least this logit.
  Prefix above(float least) {
    uint16_t first_bucket = kNumBuckets;
    for_each_match(logits_, size_, [least](float logit) { return logit < least; },
                   [&](int32_t i) { first_bucket = std::min(first_bucket, bucket_of_[i]); });
    Prefix prefix{first_bucket, 0, 0};
    for (int32_t b = 0; b < first_bucket; b++) prefix.mass += buckets_[b].mass;
    if (first_bucket == kNumBuckets) return prefix;
    const int32_t* members = rank(first_bucket);
    while (logits_[members[prefix.inside]] >= least) prefix.mass += weights_[members[prefix.inside++]];
    return prefix;
  }

  /// The first token whose cumulative mass exceeds u times the prefix's.
  int32_t draw(const Prefix& prefix, double u) {
    const double wanted = u * prefix.mass;
    double mass = 0;
    for (int32_t b = 0; b < prefix.bucket; b++) {
      if (mass + buckets_[b].mass > wanted) {
        const int32_t token = draw_within(b, buckets_[b].count, mass, wanted);
        if (token >= 0) return token;
      }
      mass += buckets_[b].mass;
    }
    const int32_t token = prefix.inside > 0 ? draw_within(prefix.bucket, prefix.inside, mass, wanted) : -1;
    return token >= 0 ? token : rank(0)[0];
  }

 private:
  struct Bucket {
    double mass;
    int64_t count;
  };

  void weigh(const Extremes& extremes, float temperature) {
    // A temperature of 1e-39 must not make 0 · Infinity.
    const float factor = float(std::min(3e38, 1.0 / double(temperature)));
    const float spread = (extremes.largest - extremes.smallest) * factor;
    const float scale = float(kNumBuckets) / std::max(std::min(spread, kMaxDistance), 1e-30f);
    for_each_vector(size_, [&](int64_t i, int count) {
      const Floats distance = (extremes.largest - load_lanes(logits_ + i, count)) * factor;
      store(weights_ + i, exp(-distance));
      const Floats place = min(broadcast(float(kNumBuckets - 1)), distance * scale);
      const Ints bucket = __builtin_convertvector(place, Ints) & (kNumBuckets - 1);
      for (int l = 0; l < kLanes; l++) bucket_of_[i + l] = uint16_t(bucket[l]);
    });
  }

  void count() {
    std::memset(static_cast<void*>(buckets_), 0, sizeof(Bucket) * kNumBuckets);
    for (int32_t i = 0; i < size_; i++) {
      Bucket& bucket = buckets_[bucket_of_[i]];
      bucket.mass += weights_[i];
      bucket.count++;
    }
    for (int32_t b = 0; b < kNumBuckets; b++) total_ += buckets_[b].mass;
  }

  /// The bucket's tokens, ranked.
  const int32_t* rank(int32_t bucket) {
    if (bucket == ranked_bucket_) return members_;
    ranked_bucket_ = bucket;
    int32_t count = 0;
    for_each_match(bucket_of_, size_, [bucket](uint16_t b) { return b == bucket; },
                   [&](int32_t i) { members_[count++] = i; });
    std::sort(members_, members_ + count, RankOrder{logits_});
    return members_;
  }

  int32_t draw_within(int32_t bucket, int32_t count, double mass, double wanted) {
    const int32_t* members = rank(bucket);
    for (int32_t i = 0; i < count; i++) {
      mass += weights_[members[i]];
      if (mass > wanted) return members[i];
    }
    return -1;
  }

  const float* logits_;
  const int32_t size_;
  double total_ = 0;
  int32_t ranked_bucket_ = -1;
  Bucket* buckets_;
  float* weights_;
  int32_t* members_;
  uint16_t* bucket_of_;
};

/// The smallest logit whose weight is at least `min_p`. Weights near 1 lose their differences; logits do not.
float least_logit(float largest, const SamplingParameters& p) {
  const double least = largest + double(p.temperature) * std::log(double(p.min_p));
  const float rounded = float(least);
  return rounded < least ? std::nextafter(rounded, INFINITY) : rounded;
}

/// What top-k, top-p and min-p leave; never empty.
Prefix cut(Distribution& distribution, float largest, const SamplingParameters& p) {
  const Prefix kept = p.top_k > 0 ? distribution.first(p.top_k) : distribution.whole();
  Prefix shortest = kept;
  if (p.top_p < 1) shortest = std::min(shortest, distribution.reaching(double(p.top_p) * kept.mass));
  if (p.min_p > 0) shortest = std::min(shortest, distribution.above(least_logit(largest, p)));
  const bool is_empty = shortest.bucket == 0 && shortest.inside == 0;
  return is_empty ? distribution.first(1) : shortest;
}

/// Bias and penalties, in float64 as the reference does.
void adjust(float* logits, const SamplingParameters& p) {
  for (int32_t i = 0; i < p.num_bias; i++) {
    logits[p.bias_ids[i]] = float(double(logits[p.bias_ids[i]]) + p.bias_values[i]);
  }
  for (int32_t i = 0; i < p.num_history; i++) {
    float& logit = logits[p.history_ids[i]];
    const double repetition = p.repetition_penalty;
    const int32_t count = p.history_output_counts[i];
    const double repeated = logit > 0 ? logit / repetition : logit * repetition;
    logit = float(repeated - (count > 0 ? p.presence_penalty : 0.0f) - double(p.frequency_penalty) * count);
  }
}

/// −1 if there is nothing to draw.
int32_t choose(const float* raw, int32_t size, Extremes extremes, const SamplingParameters& p, uint8_t* scratch) {
  const float* logits = raw;
  if (p.num_bias > 0 || p.num_history > 0) {
    auto* adjusted = reinterpret_cast<float*>(scratch + Distribution::bytes(size));
    std::memcpy(adjusted, raw, sizeof(float) * size);
    adjust(adjusted, p);
    extremes = find_extremes(adjusted, size);
    logits = adjusted;
  }
  if (extremes.largest == -INFINITY || extremes.has_nan) return -1;
  if (p.temperature == 0) return index_of(logits, extremes.largest);
  Distribution distribution(logits, size, extremes, p.temperature, scratch);
  return distribution.draw(cut(distribution, extremes.largest, p), uniform(p.seed_low, p.seed_high, p.position));
}

double log_normalizer(const float* logits, int32_t size, float largest) {
  constexpr int32_t kBlock = 1024;  // summed in float32, and the sums in float64
  double total = 0;
  for (int32_t start = 0; start < size; start += kBlock) {
    Floats sum = zeros();
    float rest = 0;
    for_each_vector(std::min(kBlock, size - start), [&](int64_t i, int count) {
      const Floats e = exp(load_lanes(logits + start + i, count) - largest);
      if (count == kLanes) sum = sum + e;
      else for (int l = 0; l < count; l++) rest += e[l];
    });
    total += double(sum_lanes(sum)) + rest;
  }
  return largest + std::log(total);
}

int32_t rank_of(const float* logits, int32_t size, int32_t token) {
  const float logit = logits[token];
  int32_t rank = 1;
  for (int32_t i = 0; i < token; i++) rank += logits[i] >= logit;
  for (int32_t i = token + 1; i < size; i++) rank += logits[i] > logit;
  return rank;
}

/// The `count` most likely tokens in order: a sorted list that rarely changes while the row is read.
void find_top(const float* logits, int32_t size, int32_t count, int32_t* ids) {
  const RankOrder order{logits};
  int32_t found = 0;
  const auto insert = [&](int32_t id) {
    if (found == count && !order(id, ids[count - 1])) return;
    int32_t place = found < count ? found++ : count - 1;
    for (; place > 0 && order(id, ids[place - 1]); place--) ids[place] = ids[place - 1];
    ids[place] = id;
  };
  const int32_t head = std::min(count, size);
  for (int32_t i = 0; i < head; i++) insert(i);
  for_each_match(logits + head, size - head, [&](float logit) { return logit > logits[ids[count - 1]]; },
                 [&](int32_t i) { insert(head + i); });
}

void report_logprobs(const float* logits, int32_t size, float largest, int32_t count, SampledRow* row) {
  const double normalizer = log_normalizer(logits, size, largest);
  row->logprob = float(logits[row->token_id] - normalizer);
  row->rank = rank_of(logits, size, row->token_id);
  count = std::min(count, size);
  if (count > 0) find_top(logits, size, count, row->top_ids);
  for (int32_t i = 0; i < count; i++) row->top_logprobs[i] = float(logits[row->top_ids[i]] - normalizer);
}

}  // namespace

int64_t sampling_scratch_bytes(int32_t vocab_size) {
  return Distribution::bytes(vocab_size) + (int64_t(vocab_size) + 15) / 16 * 16 * int64_t(sizeof(float));
}

void sample_row(const float* logits, int32_t vocab_size, const SamplingParameters& parameters, uint8_t* scratch,
                SampledRow* row) {
  row->token_id = 0;
  row->logprob = NAN;
  row->rank = 0;
  std::fill(row->top_ids, row->top_ids + row->top_count, -1);
  std::fill(row->top_logprobs, row->top_logprobs + row->top_count, NAN);
  const Extremes extremes = find_extremes(logits, vocab_size);
  const bool has_softmax = !extremes.has_nan && std::isfinite(extremes.largest);
  row->status = has_softmax ? RowStatus::kWell : RowStatus::kNoSoftmax;
  if (!has_softmax) return;
  const int32_t token = parameters.target_id >= 0
                            ? parameters.target_id
                            : choose(logits, vocab_size, extremes, parameters, scratch);
  if (token < 0) {
    row->status = RowStatus::kNothingToDraw;
    return;
  }
  row->token_id = token;
  if (parameters.num_logprobs >= 0) {
    report_logprobs(logits, vocab_size, extremes.largest, parameters.num_logprobs, row);
  }
}

}  // namespace needletail
