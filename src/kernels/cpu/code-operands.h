// The operands of products with weights of codes: x, its scales (of codes only), weight, the weight's scales, then others.
#pragma once

#include <type_traits>

#include "linear-pack.h"
#include "program.h"

namespace needletail {

struct CodeOperands {
  const Operand &x, &weight;
  /// Operands behind the scales.
  const Operand* others;
  CodeScales scales;
};

/// `parameters`: group size, whether weights have zeros, and x's group size if it is of codes.
template <class Format>
inline CodeOperands code_operands(const Command& command, const int32_t* parameters) {
  constexpr bool kHasXScales = !std::is_same_v<typename Format::Input, float>;
  const Operand* weight = command.inputs + (kHasXScales ? 2 : 1);
  CodeScales scales{weight[1].row(0), parameters[0], parameters[1] != 0, nullptr, 0, 0};
  if (kHasXScales) {
    scales.x = command.inputs[1].row(0);
    scales.x_stride = command.inputs[1].row_stride;
    scales.x_group_size = parameters[2];
  }
  return {command.inputs[0], *weight, weight + 2, scales};
}

}  // namespace needletail
