// C += A · B for the small tiles of attention: A is read element by element, B and C vector by vector.
#pragma once

#include "vector-math.h"

namespace needletail {

// Accumulators of 8 x 2 vectors fit AVX-512's and NEON's 32 registers, 4 x 2 the 16 of AVX2.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kProductRows = 8;
#else
constexpr int kProductRows = 4;
#endif

/// Row-major operands; `b` may be of a 16-bit type. `c` is added to.
template <typename T>
struct TileProduct {
  const float* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int32_t depth;
};

/// kRows rows by kVectors vectors of columns at `row`, `column`; the last vector has `count` lanes.
template <int kRows, int kVectors, typename T>
inline void multiply_vectors(const TileProduct<T>& p, int64_t row, int64_t column, int count) {
  Floats sums[kRows][kVectors];
  const float* a = p.a + row * p.a_stride;
  const T* b = p.b + column;
  float* c = p.c + row * p.c_stride + column;
  const bool is_whole = count == kLanes;
  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) sums[r][v] = zeros();
  }
  for (int32_t k = 0; k < p.depth; k++, b += p.b_stride) {
    Floats columns[kVectors];
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) {
      columns[v] = is_whole || v + 1 < kVectors ? load_floats(b + v * kLanes) : load_first_floats(b + v * kLanes, count);
    }
    NEEDLETAIL_UNROLL
    for (int r = 0; r < kRows; r++) {
      const Floats factor = broadcast(a[r * p.a_stride + k]);
      NEEDLETAIL_UNROLL
      for (int v = 0; v < kVectors; v++) sums[r][v] = multiply_add(factor, columns[v], sums[r][v]);
    }
  }
  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) {
      float* to = c + r * p.c_stride + v * kLanes;
      const int lanes = v + 1 < kVectors ? kLanes : count;
      store_lanes(to, load_lanes(to, lanes) + sums[r][v], lanes);
    }
  }
}

template <int kRows, typename T>
inline void multiply_row_block(const TileProduct<T>& p, int64_t row, int64_t columns) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= columns; column += 2 * kLanes) multiply_vectors<kRows, 2>(p, row, column, kLanes);
  for (; column < columns; column += kLanes) {
    const int64_t left = columns - column;
    multiply_vectors<kRows, 1>(p, row, column, left < kLanes ? int(left) : kLanes);
  }
}

/// c [rows, columns] += a [rows, depth] · b [depth, columns].
template <typename T>
inline void multiply_tile(const TileProduct<T>& p, int64_t rows, int64_t columns) {
  int64_t row = 0;
  for (; row + kProductRows <= rows; row += kProductRows) multiply_row_block<kProductRows>(p, row, columns);
  for (; row + 4 <= rows; row += 4) multiply_row_block<4>(p, row, columns);
  for (; row + 2 <= rows; row += 2) multiply_row_block<2>(p, row, columns);
  if (row < rows) multiply_row_block<1>(p, row, columns);
}

}  // namespace needletail
