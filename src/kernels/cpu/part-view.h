// The part of a checkpoint's tensor that a load task takes, as a matrix of its own.
#pragma once

#include <type_traits>

#include "load.h"
#include "vector-math.h"

namespace needletail {

/// The part as a matrix, wherever the tensor keeps its elements.
template <typename From>
struct PartView {
  const From* origin;
  int64_t row_stride, column_stride;

  explicit PartView(const NtLoadTask& t) {
    const int64_t tensor_row_stride = t.is_transposed ? 1 : t.source_columns;
    column_stride = t.is_transposed ? t.source_columns : 1;
    row_stride = t.row_step * tensor_row_stride;
    origin = static_cast<const From*>(t.source) + t.row_start * tensor_row_stride + t.column_start * column_stride;
  }

  const From* at(int64_t row, int64_t column) const { return origin + row * row_stride + column * column_stride; }

  /// Convert `count` elements of a row.
  template <typename To>
  void read_row(int64_t row, int64_t column, int64_t count, To* out) const {
    int64_t i = 0;
    if (column_stride == 1) {
      const From* from = at(row, column);
      if constexpr (std::is_same_v<From, To>) {
        std::memcpy(out, from, count * sizeof(To));
        return;
      }
      for (; i + kLanes <= count; i += kLanes) store_floats(out + i, load_floats(from + i));
    }
    for (; i < count; i++) from_float(to_float(*at(row, column + i)), out + i);
  }
};

}  // namespace needletail
