// How weights that are codes multiply, to the rules of linear-format.h: 32 bits per lane at each step. Columns of a chunk
// share their scales, so that sums of codes are scaled at its end.
#pragma once

#include <algorithm>

#include "float8.h"
#include "linear-format.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace needletail {

// 32 bits hold four codes of a row, byte j that of column j; or eight of four bits, the low half of byte j that of column
// j, the high half that of column j + 4. A weight is (code − zero) · scale; without zeros of its own the zero is
// kDefaultZero. What load_weights gives is kShift more than the code.

struct CodeFormat {
  using Weight = uint32_t;
  static constexpr int kLaneWeights = 1;
  static constexpr bool kIsScaled = true;
  static Ints load_codes(const Weight* weight) { return load_bits<Ints>(weight); }
};

// Float activations, and codes widened to float32.

template <class InputType>
struct FloatCodeFormat : CodeFormat {
  using Input = InputType;
  using Operand = Floats;
  using Sum = Floats;
  using Element = float;  // of a sum
  static constexpr bool kFoldBroadcast = kLanes == 16;
  static constexpr int kShift = 0;

  static Operand spread(const float* word) { return broadcast(*word); }
  static Sum multiply_add(Operand x, Operand weight, Sum sum) { return needletail::multiply_add(x, weight, sum); }
  static Floats load_words(const Input* x, int count) {
    return count >= kLanes ? load_floats(x) : load_first_floats(x, count);
  }
};

struct Int8Format : FloatCodeFormat<float> {
  static constexpr int kColumns = 4;
  static constexpr int kWords = 4;
  static constexpr int kDefaultZero = 0;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return to_floats((load_codes(weight) << (24 - 8 * kWord)) >> 24);
  }
};

struct Uint4Format : FloatCodeFormat<float> {
  static constexpr int kColumns = 8;
  static constexpr int kWords = 8;
  static constexpr int kDefaultZero = 8;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return to_floats((load_codes(weight) >> (8 * (kWord % 4) + 4 * (kWord / 4))) & 15);
  }
};

/// Activations are floats, or codes of float8 themselves.
template <class Input>
struct Float8Format : FloatCodeFormat<Input> {
  using typename CodeFormat::Weight;
  static constexpr int kColumns = 4;
  static constexpr int kWords = 4;
  static constexpr int kDefaultZero = 0;
  template <int kWord>
  static Floats load_weights(const Weight* weight) {
    return float8_numbers(CodeFormat::load_codes(weight) << (24 - 8 * kWord));
  }
};

// int8 activations, and sums of integers: 255 · 127 · kMaxChunkColumns fits 32 bits.
constexpr int32_t kMaxChunkColumns = 1 << 16;

struct DotFormat : CodeFormat {
  using Input = int8_t;
  using Operand = Ints;
  using Sum = Ints;
  using Element = int32_t;
  static constexpr bool kFoldBroadcast = false;
  static Operand spread(const float* word) { return as_ints(broadcast(*word)); }
};

#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)

/// A word is four codes, and one instruction adds four products to each lane.
struct QuadFormat : DotFormat {
#if defined(__AVX512VNNI__)
  // This instruction multiplies unsigned codes with signed ones.
  static constexpr int kInt8Shift = 128;
  static Sum multiply_add(Operand x, Operand weight, Sum sum) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weight, (__m512i)x);
  }
#else
  static constexpr int kInt8Shift = 0;
  static Sum multiply_add(Operand x, Operand weight, Sum sum) {
    return (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)weight, (int8x16_t)x);
  }
#endif
  static Floats load_words(const Input* x, int count) {
    Floats words = zeros();
    std::memcpy(&words, x, std::min(count, int(sizeof words)));
    return words;
  }
};

struct Int8DotFormat : QuadFormat {
  static constexpr int kColumns = 4;
  static constexpr int kWords = 1;
  static constexpr int kDefaultZero = 0;
  static constexpr int kShift = kInt8Shift;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    const Ints codes = load_codes(weight);
    return kShift == 0 ? codes : codes ^ int32_t(0x80808080u);
  }
};

struct Uint4DotFormat : QuadFormat {
  static constexpr int kColumns = 8;
  static constexpr int kWords = 2;
  static constexpr int kDefaultZero = 8;
  static constexpr int kShift = 0;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return (load_codes(weight) >> (4 * kWord)) & 0x0f0f0f0f;
  }
};

#else

typedef int16_t Pairs __attribute__((vector_size(sizeof(Floats))));

/// A word is two codes as 16-bit numbers: the instruction of the byte products would saturate.
struct PairFormat : DotFormat {
  static constexpr int kShift = 0;

  static Sum multiply_add(Operand x, Operand weight, Sum sum) {
#if defined(__AVX512F__)
    return sum + (Ints)_mm512_madd_epi16((__m512i)weight, (__m512i)x);
#elif defined(__AVX2__)
    return sum + (Ints)_mm256_madd_epi16((__m256i)weight, (__m256i)x);
#else
    return sum + (x >> 16) * (weight >> 16) + ((x << 16) >> 16) * ((weight << 16) >> 16);
#endif
  }

  /// Words of pairs of columns two apart, `first_columns[w]` being where word w of a step begins.
  template <int kWords>
  static Floats load_pairs(const Input* x, int count, const int (&first_columns)[kWords]) {
    Pairs pairs{};
    for (int lane = 0; lane < kLanes; lane++) {
      const int column = lane / kWords * (2 * kWords) + first_columns[lane % kWords];
      if (column < count) pairs[2 * lane] = x[column];
      if (column + 2 < count) pairs[2 * lane + 1] = x[column + 2];
    }
    return (Floats)pairs;
  }
};

struct Int8DotFormat : PairFormat {
  static constexpr int kColumns = 4;
  static constexpr int kWords = 2;
  static constexpr int kDefaultZero = 0;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    const Pairs codes = (Pairs)load_codes(weight);
    return (Ints)(kWord == 0 ? (codes << 8) >> 8 : codes >> 8);
  }
  static Floats load_words(const Input* x, int count) { return load_pairs(x, count, {0, 1}); }
};

struct Uint4DotFormat : PairFormat {
  static constexpr int kColumns = 8;
  static constexpr int kWords = 4;
  static constexpr int kDefaultZero = 8;
  template <int kWord>
  static Operand load_weights(const Weight* weight) {
    return (load_codes(weight) >> (4 * kWord)) & 0x000f000f;
  }
  static Floats load_words(const Input* x, int count) { return load_pairs(x, count, {0, 4, 1, 5}); }
};

#endif

}  // namespace needletail
