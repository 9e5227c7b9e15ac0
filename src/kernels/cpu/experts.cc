// routeExperts and combineExperts: which experts each token goes to, and the weighted sum of what they answer.
#include <cmath>

#include "kernels.h"
#include "row-range.h"
#include "vector-math.h"

namespace needletail {
namespace {

/// The op's attributes in the order of experts.ts.
struct Routing {
  int32_t num_chosen;
  bool is_sigmoid;
  bool is_normalized;
  float scale;
  int32_t num_groups;  // 0: experts are not grouped
  int32_t num_selected_groups;
  bool by_two_best;

  explicit Routing(const Command& command)
      : num_chosen(command.ints[0]),
        is_sigmoid(command.ints[1] != 0),
        is_normalized(command.ints[2] != 0),
        scale(command.floats[3]),
        num_groups(command.ints[4]),
        num_selected_groups(command.ints[5]),
        by_two_best(command.ints[6] != 0) {}
};

/// A thread's scratch for one token.
struct Router {
  const Routing& routing;
  int64_t num_experts;
  float* scores;        // [num_experts]
  float* choices;       // [num_experts], scores with their correction
  float* group_scores;  // [num_experts] or fewer
  uint8_t* is_taken;    // [num_experts], chosen already or not to be
  uint8_t* is_group_taken;

  Router(const Routing& routing, int64_t num_experts, uint8_t* scratch)
      : routing(routing),
        num_experts(num_experts),
        scores(reinterpret_cast<float*>(scratch)),
        choices(scores + num_experts),
        group_scores(choices + num_experts),
        is_taken(reinterpret_cast<uint8_t*>(group_scores + num_experts)),
        is_group_taken(is_taken + num_experts) {}
  static int64_t bytes(int64_t num_experts) { return num_experts * int64_t(3 * sizeof(float) + 2); }

  void route(const float* logits, const float* correction, float* weights, int32_t* ids) {
    score(logits);
    for (int64_t i = 0; i < num_experts; i++) choices[i] = scores[i] + (correction ? correction[i] : 0.0f);
    std::fill(is_taken, is_taken + num_experts, 0);
    if (routing.num_groups > 0) take_other_groups();
    float sum = 1e-20f;
    for (int32_t i = 0; i < routing.num_chosen; i++) {
      ids[i] = take_largest(choices, is_taken, num_experts);
      weights[i] = scores[ids[i]];
      sum += weights[i];
    }
    const float factor = routing.is_normalized ? routing.scale / sum : routing.scale;
    for (int32_t i = 0; i < routing.num_chosen; i++) weights[i] *= factor;
  }

 private:
  void score(const float* logits) {
    if (routing.is_sigmoid) return map(logits, [](Floats x) { return sigmoid(x); });
    float largest = logits[0], sum = 0;
    for (int64_t i = 1; i < num_experts; i++) largest = std::max(largest, logits[i]);
    map(logits, [largest](Floats x) { return exp(x - largest); });
    for (int64_t i = 0; i < num_experts; i++) sum += scores[i];
    map(scores, [sum](Floats x) { return x / sum; });
  }
  template <typename F>
  void map(const float* from, F f) {
    for_each_vector(num_experts, [&](int64_t i, int count) {
      store_lanes(scores + i, f(load_lanes(from + i, count)), count);
    });
  }

  /// Leaves the experts of the best groups.
  void take_other_groups() {
    const int64_t size = num_experts / routing.num_groups;
    std::fill(is_group_taken, is_group_taken + routing.num_groups, 0);
    for (int32_t group = 0; group < routing.num_groups; group++) group_scores[group] = group_score(group * size, size);
    for (int32_t i = 0; i < routing.num_selected_groups; i++) {
      take_largest(group_scores, is_group_taken, routing.num_groups);
    }
    for (int64_t i = 0; i < num_experts; i++) is_taken[i] = !is_group_taken[i / size];
  }
  float group_score(int64_t start, int64_t size) const {
    float best = choices[start], second = -INFINITY;
    for (int64_t i = start + 1; i < start + size; i++) {
      second = std::max(second, std::min(best, choices[i]));
      best = std::max(best, choices[i]);
    }
    return best + (routing.by_two_best && size > 1 ? second : 0.0f);
  }

  /// The place of the largest value that is not taken, which is then; some such place even where values are NaN.
  static int32_t take_largest(const float* values, uint8_t* is_taken, int64_t count) {
    int64_t largest = -1;
    for (int64_t i = 0; i < count; i++) {
      if (!is_taken[i] && (largest < 0 || values[i] > values[largest])) largest = i;
    }
    is_taken[largest] = 1;
    return int32_t(largest);
  }
};

}  // namespace

/// logits [rows, experts], correction? [experts] → weights, ids [rows, chosen]. Parameters: as Routing.
void route_experts(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand &logits = command.inputs[0], &correction = command.inputs[1];
  const Operand &weights = command.outputs[0], &ids = command.outputs[1];
  const Routing routing(command);
  Router router(routing, logits.columns, step.scratch(context));
  const Range rows = share_of(context, step.rows(command));
  for (int64_t row = rows.begin; row < rows.end; row++) {
    router.route(logits.row(row), correction.is_present() ? correction.row(0) : nullptr, weights.row(row),
                 ids.row<int32_t>(row));
  }
}

ScratchBytes route_experts_scratch(const Command& command, const ScratchQuery&) {
  return {Router::bytes(command.inputs[0].columns), 0};
}

/// x [rows, chosen · columns], weights [rows, chosen] → y [rows, columns].
void combine_experts(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand &x = command.inputs[0], &weights = command.inputs[1];
  const Operand& y = command.outputs[0];
  for_each_piece(context, step.rows(command), y.columns, [&](int64_t row, int64_t begin, int64_t end) {
    const float* weight = weights.row(row);
    const float* from = x.row(row) + begin;
    float* to = y.row(row) + begin;
    for_each_vector(end - begin, [&](int64_t i, int count) {
      Floats sum = zeros();
      for (int64_t expert = 0; expert < weights.columns; expert++) {
        sum = multiply_add(broadcast(weight[expert]), load_lanes(from + expert * y.columns + i, count), sum);
      }
      store_lanes(to + i, sum, count);
    });
  });
}

}  // namespace needletail
