// gatherRows: the rows whose logits are wanted.
#include <cstring>

#include "kernels.h"
#include "row-range.h"

namespace needletail {

void gather_rows(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand& x = command.inputs[0];
  const int32_t* rows = step.input(command.inputs[1]);
  const Range range = share_of(context, step.rows(command));
  for (int64_t i = range.begin; i < range.end; i++) {
    std::memcpy(command.outputs[0].row(i), x.row(rows[i]), x.columns * sizeof(float));
  }
}

}  // namespace needletail
