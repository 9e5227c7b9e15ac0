// rmsNorm, and addRmsNorm, which adds the residual stream first and gives both the sum and its norm.
#include "kernels.h"
#include "row-range.h"
#include "vector-math.h"

namespace needletail {
namespace {

float sum_of_squares(const float* x, int64_t size) {
  Floats sums[2] = {zeros(), zeros()};
  for_each_vector(size, [&](int64_t i, int count) {
    const Floats v = load_lanes(x + i, count);
    Floats& sum = sums[i / kLanes % 2];
    sum = multiply_add(v, v, sum);
  });
  return sum_lanes(sums[0] + sums[1]);
}

void normalize(const float* x, const float* weight, float* y, int64_t size, float eps, float weight_offset) {
  const float factor = 1.0f / std::sqrt(sum_of_squares(x, size) / float(size) + eps);
  for_each_vector(size, [&](int64_t i, int count) {
    const Floats scaled = load_lanes(x + i, count) * factor;
    store_lanes(y + i, scaled * (load_lanes(weight + i, count) + weight_offset), count);
  });
}

}  // namespace

/// Parameters: eps, group size, weight offset.
void rms_norm(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand& x = command.inputs[0];
  const Operand& y = command.outputs[0];
  const int64_t size = command.ints[1];
  const int64_t groups = x.columns / size;
  const Range range = share_of(context, step.rows(command) * groups);
  for (int64_t i = range.begin; i < range.end; i++) {
    const int64_t start = i % groups * size;
    normalize(x.row(i / groups) + start, command.inputs[1].row(0), y.row(i / groups) + start, size,
              command.floats[0], command.floats[2]);
  }
}

/// x, residual, weight → sum, normed. Parameters: eps, weight offset.
void add_rms_norm(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand& sum = command.outputs[0];
  const Range range = share_of(context, step.rows(command));
  for (int64_t row = range.begin; row < range.end; row++) {
    add_vectors(command.inputs[0].row(row), command.inputs[1].row(row), sum.row(row), sum.columns);
    normalize(sum.row(row), command.inputs[2].row(0), command.outputs[1].row(row), sum.columns, command.floats[0],
              command.floats[1]);
  }
}

}  // namespace needletail
