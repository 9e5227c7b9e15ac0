// How a step lies in memory: 32-bit words, a header of sizes and places first. src/device/cpu/step-memory.ts writes it.
#pragma once

#include <cstdint>

namespace needletail {

constexpr int32_t kMaxGroups = 8;
constexpr int32_t kMessageWords = 64;

/// Places are in words from the start of the step. Arrays are as src/device/step.ts describes them.
struct StepHeader {
  int32_t num_tokens;
  int32_t num_seqs;
  int32_t num_logit_rows;
  int32_t num_block_copies;
  int32_t top_count;
  int32_t num_bias;
  int32_t num_history;
  int32_t reserved;

  int32_t token_ids, positions, cu_seqlens_q, context_lens, logit_rows, block_copies;

  int32_t target_ids, temperature, top_k, top_p, min_p;
  int32_t repetition_penalty, presence_penalty, frequency_penalty;
  int32_t seed_low, seed_high, position, num_logprobs;
  int32_t bias_offsets, bias_ids, bias_values;
  int32_t history_offsets, history_ids, history_output_counts;

  // Written by the step.
  int32_t out_token_ids, out_logprobs, out_ranks, out_top_ids, out_top_logprobs, out_row_status;
  /// UTF-8, zero-terminated, kMessageWords long: what is wrong with a refused step.
  int32_t message;

  struct Group {
    int32_t slot_mapping, block_tables, max_blocks_per_seq;
  } groups[kMaxGroups];
};

static_assert(sizeof(StepHeader) == 63 * 4, "the device writes it");

/// A step's words, with typed access to its arrays.
class StepWords {
 public:
  explicit StepWords(int32_t* words) : words_(words) {}
  const StepHeader& header() const { return *reinterpret_cast<const StepHeader*>(words_); }
  int32_t* ints(int32_t place) const { return words_ + place; }
  float* floats(int32_t place) const { return reinterpret_cast<float*>(words_ + place); }
  char* message() const { return reinterpret_cast<char*>(words_ + header().message); }

 private:
  int32_t* words_;
};

}  // namespace needletail
