// quantize: activations as int8 or float8 e4m3 codes with a scale for each group of columns.
#include <algorithm>

#include "code-values.h"
#include "kernels.h"
#include "row-range.h"

namespace needletail {
namespace {

float largest(const Operand& scales) {
  const float* first = scales.row(0);
  return *std::max_element(first, first + scales.columns);
}

/// x [rows, k], static scales? [any], of which the largest counts → codes [rows, k], scales [rows, k / group size]. Parameter: group size.
template <class Code>
void quantize(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand &x = command.inputs[0], &static_scales = command.inputs[1];
  const Operand &codes = command.outputs[0], &scales = command.outputs[1];
  const int64_t size = command.ints[0], groups_per_row = x.columns / size;
  const float static_scale = static_scales.is_present() ? largest(static_scales) : 0;
  const Range groups = share_of(context, step.rows(command) * groups_per_row);
  for (int64_t i = groups.begin; i < groups.end; i++) {
    const int64_t row = i / groups_per_row, group = i % groups_per_row;
    const float* from = x.row(row) + group * size;
    const float scale = static_scale != 0 ? static_scale : scale_of<Code>(absmax(from, size));
    scales.row(row)[group] = scale;
    store_codes(from, size, scale, codes.row<Code>(row) + group * size);
  }
}

}  // namespace

void quantize_int8(const ThreadContext& context, const Command& command, const Step& step) {
  quantize<Int8>(context, command, step);
}
void quantize_fp8(const ThreadContext& context, const Command& command, const Step& step) {
  quantize<Float8>(context, command, step);
}

}  // namespace needletail
