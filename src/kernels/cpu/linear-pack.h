// Packing activations: the words of some rows, transposed, so that a tile reads those of a step one row after the other,
// and what each row brings to the scaling of a chunk.
#pragma once

#include <algorithm>
#include <numeric>

#include "code-format.h"
#include "linear-tile.h"

namespace needletail {

/// Packs the vector of words that starts at `word` for `rows` rows into a block [words][rows]; `row_at(r)` is where row r
/// of `columns` elements begins.
template <class Format, class RowAt>
inline void pack_vector(RowAt row_at, int rows, int32_t columns, int32_t word, int32_t words, float* block) {
  const int32_t column = word * (Format::kColumns / Format::kWords);
  const int count = std::min(kLanes, words - word);
  float* packed = block + static_cast<int64_t>(word) * rows;
  for (int first = 0; first < rows; first += kLanes) {
    const int height = std::min(kLanes, rows - first);
    Floats lanes[kLanes];
    for (int r = 0; r < kLanes; r++) {
      lanes[r] = r < height ? Format::load_words(row_at(first + r) + column, columns - column) : zeros();
    }
    if (rows == 1) return store_first(packed, lanes[0], count);
    transpose(lanes);
    for (int i = 0; i < count; i++) store_first(packed + i * rows + first, lanes[i], height);
  }
}

/// How the scales of a weight of codes, and of its activations, lie.
struct CodeScales {
  /// Layout panel16 of [n, groups], or of [n, 2 · groups] with zeros.
  const float* weight;
  int32_t group_size;
  bool has_zeros;
  /// Rows of scales, `x_stride` floats apart, one for each `x_group_size` columns; null: activations are floats.
  const float* x;
  int64_t x_stride;
  int32_t x_group_size;
};

/// The chunks of a row: runs of columns that share all scales, whole steps but for the last.
struct Chunks {
  int32_t columns;
  int32_t count;
  int32_t per_group;

  template <class Format>
  static Chunks of(int32_t k, const CodeScales& scales) {
    if (!Format::kIsScaled) return {k, 0, 0};
    const int32_t shared = scales.x ? std::gcd(scales.group_size, scales.x_group_size) : scales.group_size;
    const int32_t columns = std::min(shared, kMaxChunkColumns);
    return {columns, int32_t(divide_up(k, columns)), int32_t(divide_up(scales.group_size, columns))};
  }
};

inline int32_t sum_of(const int8_t* x, int32_t count) { return std::accumulate(x, x + count, int32_t(0)); }
template <class T>
inline float sum_of(const T* x, int32_t count) {
  Floats sum = zeros();
  for_each_vector(count, [&](int64_t i, int lanes) {
    sum = sum + (lanes == kLanes ? load_floats(x + i) : load_first_floats(x + i, lanes));
  });
  return sum_lanes(sum);
}

/// Writes the factors of row `row` of a block of `rows` rows: `x` are its `k` activations, `x_scales` their scales.
template <class Format>
inline void pack_factors(const typename Format::Input* x, const float* x_scales, int32_t k, const Chunks& chunks,
                         const CodeScales& scales, int row, int rows, float* factors) {
  const int zero = Format::kShift + (scales.has_zeros ? 0 : Format::kDefaultZero);
  for (int32_t chunk = 0; chunk < chunks.count; chunk++, factors += kRowFactors * rows) {
    const int32_t column = chunk * chunks.columns;
    const bool needs_sum = zero != 0 || scales.has_zeros;
    const typename Format::Element sum = needs_sum ? sum_of(x + column, std::min(chunks.columns, k - column)) : 0;

    const typename Format::Element start = -zero * sum;
    const float scale = x_scales ? x_scales[column / scales.x_group_size] : 1.0f;
    std::memcpy(factors + row, &start, sizeof start);
    factors[rows + row] = scale;
    factors[2 * rows + row] = scale * float(sum);
  }
}

/// What a tile of rows starts from: `panel` is its first one, and `factors` lie behind the words of its rows.
inline Scaling scaling_of(const CodeScales& scales, const Chunks& chunks, int32_t k, int32_t columns_per_step,
                          int32_t panel, const float* factors) {
  const int64_t num_groups = divide_up(k, scales.group_size);
  const int64_t panel_stride = num_groups * (scales.has_zeros ? 2 : 1) * kPanelColumns;
  const int32_t chunk_steps = divide_up(chunks.columns, columns_per_step);
  return {scales.weight + panel * panel_stride, panel_stride, chunk_steps, chunks.per_group, scales.has_zeros, factors};
}

}  // namespace needletail
