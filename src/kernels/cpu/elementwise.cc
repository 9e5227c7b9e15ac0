// add, multiply, scale, clamp, activation, softcap and gatedActivation. Outputs may take the place of an input exactly.
#include "kernels.h"
#include "row-range.h"
#include "vector-math.h"

namespace needletail {
namespace {

/// Numbered as `ACTIVATION_KINDS` of the op.
enum class Activation : int32_t {
  kSilu, kGelu, kGeluTanh, kRelu, kReluSquared, kQuickGelu, kSigmoid, kTanh,
};

template <Activation kKind>
Floats activate(Floats x) {
  switch (kKind) {
    case Activation::kSilu: return x * sigmoid(x);
    case Activation::kGelu: return 0.5f * x * one_plus_erf(x * 0.707106781f);
    // 1 + tanh(u) = 2 sigmoid(2u), which does not cancel for negative u.
    case Activation::kGeluTanh: return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
    case Activation::kRelu: return max(zeros(), x);
    case Activation::kReluSquared: return max(zeros(), x) * max(zeros(), x);
    case Activation::kQuickGelu: return x * sigmoid(1.702f * x);
    case Activation::kSigmoid: return sigmoid(x);
    case Activation::kTanh: return tanh(x);
  }
  return x;
}

/// Calls `f` with a tag type for the kind, so that the loop over elements knows its function.
template <typename F>
void with_activation(Activation kind, F f) {
#define NEEDLETAIL_KIND(name) \
  case Activation::name: return f([](Floats x) { return activate<Activation::name>(x); });
  switch (kind) {
    NEEDLETAIL_KIND(kSilu)
    NEEDLETAIL_KIND(kGelu)
    NEEDLETAIL_KIND(kGeluTanh)
    NEEDLETAIL_KIND(kRelu)
    NEEDLETAIL_KIND(kReluSquared)
    NEEDLETAIL_KIND(kQuickGelu)
    NEEDLETAIL_KIND(kSigmoid)
    NEEDLETAIL_KIND(kTanh)
  }
#undef NEEDLETAIL_KIND
}

template <typename F>
void map(const ThreadContext& context, const Command& command, const Step& step, F f) {
  const Operand& x = command.inputs[0];
  const Operand& y = command.outputs[0];
  for_each_piece(context, step.rows(command), y.columns, [&](int64_t row, int64_t begin, int64_t end) {
    const float* from = x.row(row) + begin;
    float* to = y.row(row) + begin;
    for_each_vector(end - begin, [&](int64_t i, int count) { store_lanes(to + i, f(load_lanes(from + i, count)), count); });
  });
}

template <typename F>
void zip(const ThreadContext& context, const Command& command, const Step& step, F f) {
  const Operand& y = command.outputs[0];
  for_each_piece(context, step.rows(command), y.columns, [&](int64_t row, int64_t begin, int64_t end) {
    const float* a = command.inputs[0].row(row) + begin;
    const float* b = command.inputs[1].row(row) + begin;
    float* to = y.row(row) + begin;
    for_each_vector(end - begin, [&](int64_t i, int count) {
      store_lanes(to + i, f(load_lanes(a + i, count), load_lanes(b + i, count)), count);
    });
  });
}

}  // namespace

void add(const ThreadContext& context, const Command& command, const Step& step) {
  zip(context, command, step, [](Floats a, Floats b) { return a + b; });
}

void multiply(const ThreadContext& context, const Command& command, const Step& step) {
  zip(context, command, step, [](Floats a, Floats b) { return a * b; });
}

/// Parameters: factor.
void scale(const ThreadContext& context, const Command& command, const Step& step) {
  const float factor = command.floats[0];
  map(context, command, step, [factor](Floats x) { return x * factor; });
}

/// Parameters: min, max.
void clamp(const ThreadContext& context, const Command& command, const Step& step) {
  const Floats low = broadcast(command.floats[0]);
  const Floats high = broadcast(command.floats[1]);
  // A NaN is the second operand's result, so that it stays one.
  map(context, command, step, [=](Floats x) { return min(high, max(low, x)); });
}

/// Parameters: cap.
void softcap(const ThreadContext& context, const Command& command, const Step& step) {
  const float cap = command.floats[0];
  map(context, command, step, [cap](Floats x) { return cap * tanh(x / cap); });
}

/// Parameters: kind.
void activation(const ThreadContext& context, const Command& command, const Step& step) {
  with_activation(Activation(command.ints[0]), [&](auto f) { map(context, command, step, f); });
}

/// x [rows, 2 · columns] → the activated first half times the second. Parameters: kind.
void gated_activation(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand& x = command.inputs[0];
  const Operand& y = command.outputs[0];
  with_activation(Activation(command.ints[0]), [&](auto f) {
    for_each_piece(context, step.rows(command), y.columns, [&](int64_t row, int64_t begin, int64_t end) {
      const float* gate = x.row(row) + begin;
      const float* up = gate + y.columns;
      float* to = y.row(row) + begin;
      for_each_vector(end - begin, [&](int64_t i, int count) {
        store_lanes(to + i, f(load_lanes(gate + i, count)) * load_lanes(up + i, count), count);
      });
    });
  });
}

}  // namespace needletail
