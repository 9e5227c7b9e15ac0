// Loading: weights packed from a checkpoint's tensors, or copied ready-made, and tables of cosines and sines.
#include "load.h"

#include <cmath>
#include <cstring>
#include <new>

#include "../src/kernels/cpu/pack.h"
#include "../src/kernels/cpu/row-range.h"
#include "needletail.h"
#include "runtime.h"

namespace needletail {
namespace {

void copy_bytes(const ThreadContext& context, const NtLoadTask& task) {
  const Range range = share_of(context, task.source_columns);
  std::memcpy(static_cast<uint8_t*>(task.target) + range.begin, static_cast<const uint8_t*>(task.source) + range.begin,
              range.end - range.begin);
}

/// Row p: the cosines of p times each inverse frequency, then the sines.
void fill_rope_table(const ThreadContext& context, const NtLoadTask& task) {
  const auto* frequencies = static_cast<const double*>(task.source);
  const int64_t columns = task.source_columns, num_pairs = columns / 2;
  const Range positions = share_of(context, task.row_count);
  for (int64_t position = positions.begin; position < positions.end; position++) {
    float* row = static_cast<float*>(task.target) + position * columns;
    for (int64_t i = 0; i < num_pairs; i++) {
      const double angle = double(position) * frequencies[i];
      row[i] = float(std::cos(angle) * task.factor);
      row[num_pairs + i] = float(std::sin(angle) * task.factor);
    }
  }
}

void run_task(const ThreadContext& context, NtLoadTask& task) {
  if (task.kind == NtLoadKind::kCopy) return copy_bytes(context, task);
  if (task.kind == NtLoadKind::kRopeTable) return fill_rope_table(context, task);
  pack_part(context, task);
}

struct LoadJob {
  NtLoadTask* tasks;
  int32_t num_tasks;
};

int32_t run_load(Runtime& runtime, void* argument) {
  const LoadJob job = *static_cast<LoadJob*>(argument);
  delete static_cast<LoadJob*>(argument);
  for (int32_t i = 0; i < job.num_tasks && !runtime.is_stopping(); i++) {
    runtime.run_on_all([](const ThreadContext& context, void* task) { run_task(context, *static_cast<NtLoadTask*>(task)); },
                       job.tasks + i);
  }
  return runtime.is_stopping() ? NT_STOPPED : NT_OK;
}

}  // namespace
}  // namespace needletail

int32_t nt_load_submit(void* runtime, NtLoadTask* tasks, int32_t num_tasks, int32_t job) {
  auto* argument = new (std::nothrow) needletail::LoadJob{tasks, num_tasks};
  if (!argument) return NT_OUT_OF_MEMORY;
  static_cast<needletail::Runtime*>(runtime)->submit({needletail::run_load, argument, job});
  return NT_OK;
}
