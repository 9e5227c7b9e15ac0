// Choosing a token from one row of logits. The rules, their order and their ties are those of src/device/step.ts.
#pragma once

#include <cstdint>

namespace needletail {

/// Entries of `SamplingBatch` that belong to one row.
struct SamplingParameters {
  int32_t target_id;
  float temperature;
  int32_t top_k;
  float top_p, min_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  uint32_t seed_low, seed_high, position;
  int32_t num_logprobs;
  int32_t num_bias;
  const int32_t* bias_ids;
  const float* bias_values;
  int32_t num_history;
  const int32_t* history_ids;
  const int32_t* history_output_counts;
};

enum class RowStatus : int32_t { kWell = 0, kNoSoftmax = 1, kNothingToDraw = 2 };

/// What becomes of a row; `top_ids` and `top_logprobs` have room for `top_count`.
struct SampledRow {
  int32_t token_id;
  float logprob;
  int32_t rank;
  RowStatus status;
  int32_t* top_ids;
  float* top_logprobs;
  int32_t top_count;
};

int64_t sampling_scratch_bytes(int32_t vocab_size);

/// Fills `row`. `scratch` is 64-byte aligned and as large as `sampling_scratch_bytes` says.
void sample_row(const float* logits, int32_t vocab_size, const SamplingParameters& parameters, uint8_t* scratch,
                SampledRow* row);

}  // namespace needletail
