// Unnormalised probabilities of a row, and prefixes of them in order of falling probability. Nothing is sorted but what a
// cut or the draw falls into: a histogram over falling logits finds that place, and only its bucket's tokens are ranked.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "vector-math.h"

namespace needletail {

constexpr int32_t kNumBuckets = 1024;
/// Beyond this many temperatures below the largest logit (a weight of 1e-14) all share the last bucket.
constexpr float kMaxDistance = 32.0f;

struct Extremes {
  float largest;
  float smallest;  // of those above −Infinity
  bool has_nan;
};

inline Extremes find_extremes(const float* logits, int32_t size) {
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
      // Lanes past the end compute what nobody reads.
      const Floats distance = (extremes.largest - load_lanes(logits_ + i, count)) * factor;
      store(weights_ + i, exp(-distance));
      const Floats place = min(broadcast(float(kNumBuckets - 1)), distance * scale);
      const auto bucket = __builtin_convertvector(__builtin_convertvector(place, Ints) & (kNumBuckets - 1), Shorts);
      std::memcpy(bucket_of_ + i, &bucket, sizeof bucket);
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

}  // namespace needletail
