// How a weight format multiplies: what one step along K loads of weights and activations, and how their product is added.
#pragma once

#include "simd.h"

namespace needletail {

// A step takes kColumns columns of K: kLaneWeights elements of the weight's memory per lane, and kWords 32-bit words of
// each row of activations, which are made of elements of type Input. Packed activations hold a step's words row by row:
// [steps][kWords][rows].

/// float32 weights.
struct Float32Format {
  using Input = float;
  using Weight = float;
  using Operand = Floats;
  using Sum = Floats;
  static constexpr int kColumns = 1;
  static constexpr int kLaneWeights = 1;
  static constexpr int kWords = 1;
  /// Whether weights are codes, whose sums are scaled.
  static constexpr bool kIsScaled = false;
  /// AVX-512 alone can fold a broadcast into an instruction.
  static constexpr bool kFoldBroadcast = kLanes == 16;

  /// The weights that one word of every lane multiplies.
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return load(weight);
  }
  static Operand spread(const float* word) { return broadcast(*word); }
  static Sum multiply_add(Operand x, Operand weight, Sum sum) { return needletail::multiply_add(x, weight, sum); }
  /// kLanes words of a row that has `count` columns left; zero beyond them.
  static Floats load_words(const float* x, int count) { return count >= kLanes ? load(x) : load_first(x, count); }
};

/// float16 weights, widened to float32.
struct Float16Format : Float32Format {
  using Weight = uint16_t;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return load_float16(weight);
  }
};

/// bfloat16 weights, widened to float32: of two that share 32 bits, either is widened by one instruction.
struct Bfloat16Format : Float32Format {
  using Weight = uint16_t;
  static constexpr int kColumns = 2;
  static constexpr int kLaneWeights = 2;
  static constexpr int kWords = 2;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return kWord == 0 ? load_bfloat16_first(weight) : load_bfloat16_second(weight);
  }
};

#if defined(__AVX512BF16__)
/// bfloat16 weights and activations: a word is a pair of bfloat16, and their dot product is added in float32.
struct Bfloat16DotFormat {
  using Input = float;
  using Weight = uint16_t;
  using Operand = __m512bh;
  using Sum = Floats;
  static constexpr int kColumns = 2;
  static constexpr int kLaneWeights = 2;
  static constexpr int kWords = 1;
  static constexpr bool kIsScaled = false;
  static constexpr bool kFoldBroadcast = false;

  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return (__m512bh)_mm512_loadu_si512(weight);
  }
  static Operand spread(const float* word) { return (__m512bh)broadcast(*word); }
  static Sum multiply_add(Operand x, Operand weight, Sum sum) { return _mm512_dpbf16_ps(sum, weight, x); }
  static Floats load_words(const float* x, int count) {
    const Floats low = Float32Format::load_words(x, count);
    const Floats high = count > kLanes ? Float32Format::load_words(x + kLanes, count - kLanes) : zeros();
    return (Floats)_mm512_cvtne2ps_pbh(high, low);
  }
};
#endif

}  // namespace needletail
