// groupedLinear on packed weights of float types.
#include "grouped-product.h"
#include "kernels.h"

namespace needletail {
namespace {

template <class Format>
void grouped_linear(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand* inputs = command.inputs;
  const GroupedArgs args{inputs[0], inputs[1], inputs[2], inputs[3], command.outputs[0], command.ints[0], command.ints[1], {}};
  multiply_grouped<Format>(args, step.rows(command), step.workspace, context);
}

}  // namespace

// x [rows, inputs] or [rows, per token · inputs], weight [matrices · outputs, inputs], ids? [rows, per token], bias?
// [matrices · outputs] → y [rows, per token · outputs]. Parameters: matrices, matrices per token.

void grouped_linear_fp32(const ThreadContext& context, const Command& command, const Step& step) {
  grouped_linear<Float32Format>(context, command, step);
}
void grouped_linear_fp16(const ThreadContext& context, const Command& command, const Step& step) {
  grouped_linear<Float16Format>(context, command, step);
}
void grouped_linear_bf16(const ThreadContext& context, const Command& command, const Step& step) {
  grouped_linear<Bfloat16Format>(context, command, step);
}
#if defined(__AVX512BF16__)
void grouped_linear_bf16_dot(const ThreadContext& context, const Command& command, const Step& step) {
  grouped_linear<Bfloat16DotFormat>(context, command, step);
}
#endif

}  // namespace needletail
