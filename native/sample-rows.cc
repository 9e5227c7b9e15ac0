// Sampling of a step: rows are handed to the threads one by one.
#include "../src/kernels/cpu/sample.h"

#include "loaded-program.h"

namespace needletail {
namespace {

SamplingParameters parameters_of(const StepWords& words, int32_t row) {
  const StepHeader& at = words.header();
  const int32_t* bias_offsets = words.ints(at.bias_offsets) + row;
  const int32_t* history_offsets = words.ints(at.history_offsets) + row;
  return {words.ints(at.target_ids)[row],
          words.floats(at.temperature)[row],
          words.ints(at.top_k)[row],
          words.floats(at.top_p)[row],
          words.floats(at.min_p)[row],
          words.floats(at.repetition_penalty)[row],
          words.floats(at.presence_penalty)[row],
          words.floats(at.frequency_penalty)[row],
          uint32_t(words.ints(at.seed_low)[row]),
          uint32_t(words.ints(at.seed_high)[row]),
          uint32_t(words.ints(at.position)[row]),
          words.ints(at.num_logprobs)[row],
          bias_offsets[1] - bias_offsets[0],
          words.ints(at.bias_ids) + bias_offsets[0],
          words.floats(at.bias_values) + bias_offsets[0],
          history_offsets[1] - history_offsets[0],
          words.ints(at.history_ids) + history_offsets[0],
          words.ints(at.history_output_counts) + history_offsets[0]};
}

void keep_result(const StepWords& words, int32_t row, const SampledRow& sampled) {
  const StepHeader& at = words.header();
  words.ints(at.out_token_ids)[row] = sampled.token_id;
  words.floats(at.out_logprobs)[row] = sampled.logprob;
  words.ints(at.out_ranks)[row] = sampled.rank;
  words.ints(at.out_row_status)[row] = int32_t(sampled.status);
}

}  // namespace

void sample_rows(const ThreadContext& context, const LoadedProgram& program, const Step& step, const StepWords& words) {
  const StepHeader& at = words.header();
  const Operand& logits = program.header.logits;
  for (int64_t row = context.take_chunk(); row < step.num_logit_rows; row = context.take_chunk()) {
    SampledRow sampled;
    sampled.top_ids = words.ints(at.out_top_ids) + row * at.top_count;
    sampled.top_logprobs = words.floats(at.out_top_logprobs) + row * at.top_count;
    sampled.top_count = at.top_count;
    sample_row(logits.row(row), program.vocab_size(), parameters_of(words, int32_t(row)), step.scratch(context),
               &sampled);
    keep_result(words, int32_t(row), sampled);
  }
}

}  // namespace needletail
