// weightOnlyLinear and quantizedLinear: products on packed weights of codes.
#include "code-operands.h"
#include "kernels.h"
#include "linear-product.h"

namespace needletail {
namespace {

template <class Format>
void code_linear(const ThreadContext& context, const Command& command, const Step& step) {
  const auto [x, weight, others, scales] = code_operands<Format>(command, command.ints);
  const float* bias = others[0].is_present() ? others[0].row(0) : nullptr;
  const Operand& y = command.outputs[0];
  multiply<Format>({x.data, x.row_stride, weight.data, bias, y.row(0), y.row_stride, step.rows(command),
                    int32_t(weight.rows), int32_t(weight.columns), step.workspace, scales},
                   context);
}

}  // namespace

/// x [rows, k], weight [n, k], scales, bias? [n] → y [rows, n]. Parameters: group size, whether weights have zeros.
void weight_only_linear_int8(const ThreadContext& context, const Command& command, const Step& step) {
  code_linear<Int8Format>(context, command, step);
}
void weight_only_linear_uint4(const ThreadContext& context, const Command& command, const Step& step) {
  code_linear<Uint4Format>(context, command, step);
}
void weight_only_linear_fp8(const ThreadContext& context, const Command& command, const Step& step) {
  code_linear<Float8Format<float>>(context, command, step);
}

/// x [rows, k] of codes, its scales [rows, k / x's group size], and as above. Parameters: also x's group size.
void quantized_linear_int8(const ThreadContext& context, const Command& command, const Step& step) {
  code_linear<Int8DotFormat>(context, command, step);
}
void quantized_linear_uint4(const ThreadContext& context, const Command& command, const Step& step) {
  code_linear<Uint4DotFormat>(context, command, step);
}
void quantized_linear_fp8(const ThreadContext& context, const Command& command, const Step& step) {
  code_linear<Float8Format<Float8>>(context, command, step);
}

}  // namespace needletail
