// Sampling: bias and penalties, cuts, the draw, and log-probabilities of one row of logits.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "distribution.h"

namespace needletail {
namespace {

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

/// The first token of that logit; there is one.
int32_t index_of(const float* logits, int32_t size, float value) {
  constexpr int32_t kBlock = 64;
  const auto is_value = [value](float logit) { return logit == value; };
  int32_t i = 0;
  while (i + kBlock <= size && !any_of<kBlock>(logits + i, is_value)) i += kBlock;
  while (!is_value(logits[i])) i++;
  return i;
}

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
  if (p.temperature == 0) return index_of(logits, size, extremes.largest);
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
