// Loading: weights packed from a checkpoint's tensors, or copied ready-made, and tables of cosines and sines.
#include "load.h"

#include <cmath>
#include <cstring>
#include <new>

#include "../src/kernels/cpu/row-range.h"
#include "../src/kernels/cpu/vector-math.h"
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

int64_t packed_index(const NtLoadTask& t, int64_t row, int64_t column) {
  const int64_t columns = t.column_count;
  if (t.layout == Layout::kRowMajor) return row * columns + column;
  if (t.layout == Layout::kPanel16) return (row / 16 * columns + column) * 16 + row % 16;
  return ((row / 16 * ((columns + 1) / 2) + column / 2) * 16 + row % 16) * 2 + column % 2;
}

template <typename From, typename To>
void pack_part(const ThreadContext& context, const NtLoadTask& t) {
  const auto* source = static_cast<const From*>(t.source);
  auto* target = static_cast<To*>(t.target);
  const int64_t row_stride = t.is_transposed ? 1 : t.source_columns;
  const int64_t column_stride = t.is_transposed ? t.source_columns : 1;
  const Range rows = share_of(context, t.row_count);
  for (int64_t row = rows.begin; row < rows.end; row++) {
    for (int64_t column = 0; column < t.column_count; column++) {
      const From value = source[(t.row_start + row) * row_stride + (t.column_start + column) * column_stride];
      from_float(to_float(value), target + packed_index(t, t.target_row + row, column));
    }
  }
}

template <typename From>
void pack_from(const ThreadContext& context, const NtLoadTask& task) {
  switch (task.target_dtype) {
    case DType::kBfloat16: return pack_part<From, Bfloat16>(context, task);
    case DType::kFloat16: return pack_part<From, Float16>(context, task);
    default: return pack_part<From, float>(context, task);
  }
}

void run_task(const ThreadContext& context, const NtLoadTask& task) {
  if (task.kind == NtLoadKind::kCopy) return copy_bytes(context, task);
  if (task.kind == NtLoadKind::kRopeTable) return fill_rope_table(context, task);
  switch (task.source_dtype) {
    case DType::kBfloat16: return pack_from<Bfloat16>(context, task);
    case DType::kFloat16: return pack_from<Float16>(context, task);
    default: return pack_from<float>(context, task);
  }
}

struct LoadJob {
  const NtLoadTask* tasks;
  int32_t num_tasks;
};

int32_t run_load(Runtime& runtime, void* argument) {
  const LoadJob job = *static_cast<LoadJob*>(argument);
  delete static_cast<LoadJob*>(argument);
  for (int32_t i = 0; i < job.num_tasks && !runtime.is_stopping(); i++) {
    runtime.run_on_all([](const ThreadContext& context, void* task) { run_task(context, *static_cast<NtLoadTask*>(task)); },
                       const_cast<NtLoadTask*>(job.tasks + i));
  }
  return runtime.is_stopping() ? NT_STOPPED : NT_OK;
}

}  // namespace
}  // namespace needletail

int32_t nt_load_submit(void* runtime, const NtLoadTask* tasks, int32_t num_tasks, int32_t job) {
  auto* argument = new (std::nothrow) needletail::LoadJob{tasks, num_tasks};
  if (!argument) return NT_OUT_OF_MEMORY;
  static_cast<needletail::Runtime*>(runtime)->submit({needletail::run_load, argument, job});
  return NT_OK;
}
