// permuteColumns: columns of activations in the order in which a weight of codes has them.
#include <algorithm>

#include "kernels.h"
#include "row-range.h"

namespace needletail {

/// x [rows, k], order [k], column numbers as floats → [rows, k]. What is no column's number reads one all the same.
void permute_columns(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand &x = command.inputs[0], &y = command.outputs[0];
  const float* order = command.inputs[1].row(0);
  const float last = float(x.columns - 1);
  for_each_piece(context, step.rows(command), y.columns, [&](int64_t row, int64_t begin, int64_t end) {
    const float* from = x.row(row);
    float* to = y.row(row);
    for (int64_t i = begin; i < end; i++) to[i] = from[int32_t(std::min(std::max(order[i], 0.0f), last))];
  });
}

}  // namespace needletail
