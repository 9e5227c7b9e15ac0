// One step from block copies to sampled tokens: all threads walk the command list, with a barrier after each command.
#include <cstring>
#include <new>

#include "kernel-table.h"
#include "loaded-program.h"
#include "needletail.h"

namespace needletail {
namespace {

struct StepRun {
  const LoadedProgram& program;
  StepWords words;
  Step step;
  GroupBatch groups[kMaxGroups];
  /// Whether to leave off after the launch of even or odd number; two, so that no thread reads one that changes.
  bool is_abandoned[2] = {false, false};

  StepRun(const LoadedProgram& program, int32_t* memory) : program(program), words(memory) {
    const StepHeader& header = words.header();
    for (int32_t i = 0; i < program.header.num_groups; i++) {
      const auto& group = header.groups[i];
      groups[i] = {words.ints(group.slot_mapping), words.ints(group.block_tables), group.max_blocks_per_seq};
    }
    step = {header.num_tokens,
            header.num_seqs,
            header.num_logit_rows,
            {words.ints(header.token_ids), words.ints(header.positions), words.ints(header.cu_seqlens_q),
             words.ints(header.context_lens), words.ints(header.logit_rows)},
            groups,
            program.kv_caches.data(),
            program.header.workspace,
            program.thread_scratch.data(),
            program.thread_scratch_bytes,
            program.shared_scratch.data()};
  }
};

/// Copy on write: whole blocks, in every layer of their group, before any command reads or writes them.
void copy_blocks(const StepRun& run) {
  const int32_t* copies = run.words.ints(run.words.header().block_copies);
  for (int32_t i = 0; i < run.words.header().num_block_copies; i++, copies += 3) {
    for (const KvCache& cache : run.program.kv_caches) {
      if (cache.group != copies[0]) continue;
      const int64_t bytes = cache.block_bytes();
      std::memmove(cache.data + copies[2] * bytes, cache.data + copies[1] * bytes, bytes);
    }
  }
}

Kernel kernel_for(const Command& command, int32_t rows) {
  int32_t i = 0;
  while (i + 1 < command.num_variants && command.variants[i].max_rows >= 0 && command.variants[i].max_rows < rows) i++;
  return kernel_at(command.variants[i].kernel).run;
}

void walk_commands(const ThreadContext& context, StepRun& run) {
  int parity = 0;
  for (const Command& command : run.program.commands) {
    const int32_t rows = run.step.rows(command);
    if (rows == 0) continue;
    kernel_for(command, rows)(context, command, run.step);
    if (context.thread == 0) run.is_abandoned[parity] = run.program.runtime->is_stopping();
    context.barrier();
    if (run.is_abandoned[parity]) return;
    parity ^= 1;
  }
  sample_rows(context, run.program, run.step, run.words);
}

struct StepJob {
  LoadedProgram* program;
  int32_t* memory;
};

int32_t run_step(Runtime& runtime, void* argument) {
  const StepJob job = *static_cast<StepJob*>(argument);
  delete static_cast<StepJob*>(argument);
  StepRun run(*job.program, job.memory);
  if (!check_step(run.program, run.words)) return NT_INVALID_STEP;
  copy_blocks(run);
  runtime.run_on_all([](const ThreadContext& context, void* run) { walk_commands(context, *static_cast<StepRun*>(run)); },
                     &run);
  return runtime.is_stopping() ? NT_STOPPED : NT_OK;
}

}  // namespace
}  // namespace needletail

int32_t nt_step_submit(void* program, int32_t* step, int32_t job) {
  auto* loaded = static_cast<needletail::LoadedProgram*>(program);
  auto* argument = new (std::nothrow) needletail::StepJob{loaded, step};
  if (!argument) return NT_OUT_OF_MEMORY;
  loaded->runtime->submit({needletail::run_step, argument, job});
  return NT_OK;
}
