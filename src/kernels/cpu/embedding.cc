// embedding: rows of a table, whatever type and layout the table has for the sake of other ops that read it.
#include "kernels.h"
#include "row-range.h"
#include "vector-math.h"

namespace needletail {
namespace {

/// Where element (row, column) stands, as `start + column / group * stride + column % group`.
struct RowPlace {
  int64_t start, group, stride;
};

RowPlace place_of(const Operand& table, int64_t row) {
  constexpr int64_t kPanelRows = 16;
  if (table.layout == Layout::kRowMajor) return {row * table.columns, 1, 1};
  const int64_t group = table.layout == Layout::kPanel16x2 ? 2 : 1;
  const int64_t padded_columns = (table.columns + group - 1) / group * group;
  return {row / kPanelRows * kPanelRows * padded_columns + row % kPanelRows * group, group, kPanelRows * group};
}

template <typename T>
void copy_row(const Operand& table, int64_t row, float* to, int64_t begin, int64_t end) {
  const RowPlace place = place_of(table, row);
  const T* from = static_cast<const T*>(table.data) + place.start;
  for (int64_t c = begin; c < end; c++) to[c] = to_float(from[c / place.group * place.stride + c % place.group]);
}

template <typename T>
void look_up(const ThreadContext& context, const Command& command, const Step& step) {
  const int32_t* ids = step.input(command.inputs[0]);
  const Operand& table = command.inputs[1];
  for_each_piece(context, step.rows(command), table.columns, [&](int64_t row, int64_t begin, int64_t end) {
    copy_row<T>(table, ids[row], command.outputs[0].row(row), begin, end);
  });
}

}  // namespace

void embedding(const ThreadContext& context, const Command& command, const Step& step) {
  switch (command.inputs[1].dtype) {
    case DType::kBfloat16: return look_up<Bfloat16>(context, command, step);
    case DType::kFloat16: return look_up<Float16>(context, command, step);
    default: return look_up<float>(context, command, step);
  }
}

}  // namespace needletail
