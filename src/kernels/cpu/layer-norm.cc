// layerNorm, and addLayerNorm, which adds the residual stream first and gives both the sum and its norm.
#include "kernels.h"
#include "row-range.h"
#include "vector-math.h"

namespace needletail {
namespace {

float mean_of(const float* x, int64_t size) {
  Floats sum = zeros();
  for_each_vector(size, [&](int64_t i, int count) { sum = sum + load_lanes(x + i, count); });
  return sum_lanes(sum) / float(size);
}

/// Mean squared distance from `mean`; partial vectors are done one by one, for their unused lanes are not at the mean.
float variance_of(const float* x, int64_t size, float mean) {
  Floats sum = zeros();
  float rest = 0;
  for_each_vector(size, [&](int64_t i, int count) {
    if (count == kLanes) {
      const Floats distance = load(x + i) - mean;
      sum = multiply_add(distance, distance, sum);
    } else {
      for (int64_t j = i; j < size; j++) rest += (x[j] - mean) * (x[j] - mean);
    }
  });
  return (sum_lanes(sum) + rest) / float(size);
}

/// `bias` may be null.
void normalize(const float* x, const float* weight, const float* bias, float* y, int64_t size, float eps) {
  const float mean = mean_of(x, size);
  const float factor = 1.0f / std::sqrt(variance_of(x, size, mean) + eps);
  for_each_vector(size, [&](int64_t i, int count) {
    Floats normed = (load_lanes(x + i, count) - mean) * factor * load_lanes(weight + i, count);
    if (bias) normed = normed + load_lanes(bias + i, count);
    store_lanes(y + i, normed, count);
  });
}

const float* bias_of(const Operand& bias, int64_t start = 0) { return bias.is_present() ? bias.row(0) + start : nullptr; }

}  // namespace

/// Weight and bias have one element for each column of a group, or of the row. Parameters: eps, group size.
void layer_norm(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand& x = command.inputs[0];
  const Operand& weight = command.inputs[1];
  const int64_t size = command.ints[1];
  const int64_t groups = x.columns / size;
  const Range range = share_of(context, step.rows(command) * groups);
  for (int64_t i = range.begin; i < range.end; i++) {
    const int64_t start = i % groups * size;
    const int64_t weight_start = weight.columns == size ? 0 : start;
    normalize(x.row(i / groups) + start, weight.row(0) + weight_start, bias_of(command.inputs[2], weight_start),
              command.outputs[0].row(i / groups) + start, size, command.floats[0]);
  }
}

/// x, residual, weight, bias? → sum, normed. Parameters: eps.
void add_layer_norm(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand& sum = command.outputs[0];
  const Range range = share_of(context, step.rows(command));
  for (int64_t row = range.begin; row < range.end; row++) {
    add_vectors(command.inputs[0].row(row), command.inputs[1].row(row), sum.row(row), sum.columns);
    normalize(sum.row(row), command.inputs[2].row(0), bias_of(command.inputs[3]), command.outputs[1].row(row), sum.columns,
              command.floats[0]);
  }
}

}  // namespace needletail
