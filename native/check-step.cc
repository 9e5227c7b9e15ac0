// Checks a step's numbers against what they index, before anything uses them.
#include <cstdarg>
#include <cstdio>

#include "loaded-program.h"

namespace needletail {
namespace {

class StepCheck {
 public:
  StepCheck(const LoadedProgram& program, const StepWords& words)
      : program_(program), words_(words), step_(words.header()) {}

  bool run() {
    const NtProgramHeader& limits = program_.header;
    return is_size("numTokens", step_.num_tokens, limits.max_num_tokens) &&
           is_size("numSeqs", step_.num_seqs, limits.max_num_seqs) &&
           is_size("numLogitRows", step_.num_logit_rows, limits.max_num_logit_rows) &&
           are_below("tokenIds", step_.token_ids, step_.num_tokens, program_.token_id_limit) &&
           are_below("positions", step_.positions, step_.num_tokens, program_.position_limit) &&
           are_below("logitRows", step_.logit_rows, step_.num_logit_rows, step_.num_tokens) && are_sequences_whole() &&
           are_groups_right() && are_copies_right() && is_sampling_right();
  }

 private:
  bool is_size(const char* name, int32_t value, int32_t most) const {
    return (value >= 0 && value <= most) || fail("%s is %d, but the plan allows at most %d", name, value, most);
  }

  /// Every one of `count` numbers lies in [least, limit).
  bool are_below(const char* name, int32_t place, int32_t count, int32_t limit, int32_t least = 0) const {
    const int32_t* values = words_.ints(place);
    for (int32_t i = 0; i < count; i++) {
      if (values[i] < least || values[i] >= limit) {
        return fail("%s[%d] is %d, outside of [%d, %d)", name, i, values[i], least, limit);
      }
    }
    return true;
  }

  bool are_sequences_whole() const {
    const int32_t* cu_seqlens_q = words_.ints(step_.cu_seqlens_q);
    const int32_t* context_lens = words_.ints(step_.context_lens);
    if (cu_seqlens_q[0] != 0 || cu_seqlens_q[step_.num_seqs] != step_.num_tokens) {
      return fail("cuSeqlensQ must lead from 0 to numTokens");
    }
    for (int32_t seq = 0; seq < step_.num_seqs; seq++) {
      const int32_t num_queries = cu_seqlens_q[seq + 1] - cu_seqlens_q[seq];
      if (num_queries < 0) return fail("cuSeqlensQ falls at sequence %d", seq);
      if (context_lens[seq] < num_queries) {
        return fail("contextLens[%d] is %d, less than its %d queries", seq, context_lens[seq], num_queries);
      }
    }
    return true;
  }

  bool are_groups_right() const {
    for (int32_t group = 0; group < program_.header.num_groups; group++) {
      const auto& batch = step_.groups[group];
      const int32_t num_blocks = program_.header.group_num_blocks[group];
      const int32_t num_slots = num_blocks * program_.header.block_size;
      if (!are_below("slotMapping", batch.slot_mapping, step_.num_tokens, num_slots)) return false;
      if (!are_tables_right(batch, num_blocks)) return false;
    }
    return true;
  }

  /// Only the blocks that a sequence's context covers are ever read.
  bool are_tables_right(const StepHeader::Group& batch, int32_t num_blocks) const {
    const int32_t* context_lens = words_.ints(step_.context_lens);
    for (int32_t seq = 0; seq < step_.num_seqs; seq++) {
      const int64_t used = (int64_t(context_lens[seq]) + program_.header.block_size - 1) / program_.header.block_size;
      if (used > batch.max_blocks_per_seq) {
        return fail("contextLens[%d] is %d, beyond its block table", seq, context_lens[seq]);
      }
      const int64_t row = batch.block_tables + int64_t(seq) * batch.max_blocks_per_seq;
      if (!are_below("blockTables", int32_t(row), int32_t(used), num_blocks)) return false;
    }
    return true;
  }

  bool are_copies_right() const {
    const int32_t* copies = words_.ints(step_.block_copies);
    for (int32_t i = 0; i < step_.num_block_copies; i++) {
      const int32_t group = copies[3 * i];
      if (group < 0 || group >= program_.header.num_groups) return fail("blockCopies names group %d", group);
      if (!are_below("blockCopies", step_.block_copies + 3 * i + 1, 2, program_.header.group_num_blocks[group])) {
        return false;
      }
    }
    return true;
  }

  bool is_sampling_right() const {
    const int32_t rows = step_.num_logit_rows, vocab_size = program_.vocab_size();
    return are_below("targetIds", step_.target_ids, rows, vocab_size, -1) &&
           are_below("numLogprobs", step_.num_logprobs, rows, vocab_size + 1, -1) &&
           are_below("numLogprobs", step_.num_logprobs, rows, step_.top_count + 1, -1) &&
           are_offsets("biasOffsets", step_.bias_offsets, step_.num_bias) &&
           are_below("biasIds", step_.bias_ids, step_.num_bias, vocab_size) &&
           are_offsets("historyOffsets", step_.history_offsets, step_.num_history) &&
           are_below("historyIds", step_.history_ids, step_.num_history, vocab_size);
  }

  bool are_offsets(const char* name, int32_t place, int32_t total) const {
    const int32_t* offsets = words_.ints(place);
    if (offsets[0] != 0 || offsets[step_.num_logit_rows] != total) return fail("%s must lead from 0 to %d", name, total);
    for (int32_t i = 0; i < step_.num_logit_rows; i++) {
      if (offsets[i] > offsets[i + 1]) return fail("%s falls at row %d", name, i);
    }
    return true;
  }

  __attribute__((format(printf, 2, 3))) bool fail(const char* format, ...) const {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words_.message(), kMessageWords * sizeof(int32_t), format, arguments);
    va_end(arguments);
    return false;
  }

  const LoadedProgram& program_;
  const StepWords& words_;
  const StepHeader& step_;
};

}  // namespace

bool check_step(const LoadedProgram& program, const StepWords& words) { return StepCheck(program, words).run(); }

}  // namespace needletail
