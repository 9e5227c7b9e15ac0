// weightOnlyGroupedLinear and quantizedGroupedLinear: grouped products on packed weights of codes.
#include "code-operands.h"
#include "grouped-product.h"
#include "kernels.h"

namespace needletail {
namespace {

template <class Format>
void code_grouped_linear(const ThreadContext& context, const Command& command, const Step& step) {
  const auto [x, weight, others, scales] = code_operands<Format>(command, command.ints + 2);
  const GroupedArgs args{x, weight, others[0], others[1], command.outputs[0], command.ints[0], command.ints[1], scales};
  multiply_grouped<Format>(args, step.rows(command), step.workspace, context);
}

}  // namespace

// x [rows, inputs] or [rows, per token · inputs], in quantized products of codes with their scales, weight
// [matrices · outputs, inputs], scales, ids? [rows, per token], bias? [matrices · outputs] → y [rows, per token · outputs].
// Parameters: matrices, matrices per token, then as in quantized-linear.cc.

void weight_only_grouped_linear_int8(const ThreadContext& context, const Command& command, const Step& step) {
  code_grouped_linear<Int8Format>(context, command, step);
}
void weight_only_grouped_linear_uint4(const ThreadContext& context, const Command& command, const Step& step) {
  code_grouped_linear<Uint4Format>(context, command, step);
}
void weight_only_grouped_linear_fp8(const ThreadContext& context, const Command& command, const Step& step) {
  code_grouped_linear<Float8Format<float>>(context, command, step);
}
void quantized_grouped_linear_int8(const ThreadContext& context, const Command& command, const Step& step) {
  code_grouped_linear<Int8DotFormat>(context, command, step);
}
void quantized_grouped_linear_uint4(const ThreadContext& context, const Command& command, const Step& step) {
  code_grouped_linear<Uint4DotFormat>(context, command, step);
}
void quantized_grouped_linear_fp8(const ThreadContext& context, const Command& command, const Step& step) {
  code_grouped_linear<Float8Format<Float8>>(context, command, step);
}

}  // namespace needletail
