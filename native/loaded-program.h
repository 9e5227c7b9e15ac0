// A program in memory: commands, caches and scratch, and the bounds that a step's numbers must keep.
#pragma once

#include <vector>

#include "program-header.h"
#include "runtime.h"

namespace needletail {

/// Memory from nt_memory_allocate.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  /// False if there is no memory.
  bool allocate(int64_t bytes);
  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

struct LoadedProgram {
  Runtime* runtime;
  NtProgramHeader header;
  std::vector<Command> commands;
  std::vector<KvCache> kv_caches;
  std::vector<float> constants;

  /// Token ids and positions must lie below these.
  int32_t token_id_limit;
  int32_t position_limit;

  Scratch thread_scratch;
  int64_t thread_scratch_bytes;
  Scratch shared_scratch;

  int32_t vocab_size() const { return int32_t(header.logits.columns); }
};

/// Whether the step stays within the program's bounds; if not, its message says where not.
bool check_step(const LoadedProgram& program, const StepWords& words);

/// Chooses a token for each logit row; every thread calls it. See src/device/step.ts for the rules.
void sample_rows(const ThreadContext& context, const LoadedProgram& program, const Step& step, const StepWords& words);

}  // namespace needletail
