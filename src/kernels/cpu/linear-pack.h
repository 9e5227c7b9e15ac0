// Packing activations: the words of some rows, transposed, so that a tile reads those of a step one row after the other.
#pragma once

#include <algorithm>

#include "linear-format.h"

namespace needletail {

/// Packs the vector of words that starts at `word` for `rows` rows into a block [words][rows]; `row_at(r)` is where row r
/// of `columns` floats begins.
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

}  // namespace needletail
