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
  /// The operand like `b` that will be needed next, to be fetched while this one is used; null if that is known to be
  /// at hand. In blocks of a few kilobytes the processor by itself sees too late where memory is read.
  const T* next_b = nullptr;
};

/// Sums that run side by side for one element of c: few rows alone would wait for each addition to end.
constexpr int depth_lanes(int rows, int vectors) {
  const int lanes = 8 / (rows * vectors);
  return lanes > 4 ? 4 : lanes < 1 ? 1 : lanes;
}

/// kRows rows by kVectors vectors of columns at `row`, `column`; the last vector has `count` lanes.
template <bool kFetches, int kRows, int kVectors, typename T>
inline void multiply_vectors(const TileProduct<T>& p, int64_t row, int64_t column, int count) {
  constexpr int kDepths = depth_lanes(kRows, kVectors);
  Floats sums[kDepths][kRows][kVectors] = {};
  const float* a = p.a + row * p.a_stride;
  const T* b = p.b + column;
  constexpr int kLineLanes = 64 / sizeof(T);
  // Rows of b shorter than a cache line lie side by side.
  constexpr int kStepsPerLine = kVectors * kLanes < kLineLanes ? kLineLanes / (kVectors * kLanes) : 1;
  const T* next_b = kFetches ? p.next_b + column : nullptr;
  const bool is_whole = count == kLanes;
  const auto add_product = [&](int32_t k, Floats (&to)[kRows][kVectors]) {
    Floats columns[kVectors];
    const T* from = b + k * p.b_stride;
    if (kFetches && k % kStepsPerLine == 0) {
      for (int i = 0; i < kVectors * kLanes; i += kLineLanes) __builtin_prefetch(next_b + k * p.b_stride + i, 0, 2);
    }
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) {
      const T* place = from + v * kLanes;
      columns[v] = is_whole || v + 1 < kVectors ? load_floats(place) : load_first_floats(place, count);
    }
    NEEDLETAIL_UNROLL
    for (int r = 0; r < kRows; r++) {
      const Floats factor = broadcast(a[r * p.a_stride + k]);
      NEEDLETAIL_UNROLL
      for (int v = 0; v < kVectors; v++) to[r][v] = multiply_add(factor, columns[v], to[r][v]);
    }
  };
  int32_t k = 0;
  for (; k + kDepths <= p.depth; k += kDepths) {
    NEEDLETAIL_UNROLL
    for (int i = 0; i < kDepths; i++) add_product(k + i, sums[i]);
  }
  for (; k < p.depth; k++) add_product(k, sums[0]);
  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) {
      NEEDLETAIL_UNROLL
      for (int i = 1; i < kDepths; i++) sums[0][r][v] = sums[0][r][v] + sums[i][r][v];
      float* to = p.c + (row + r) * p.c_stride + column + v * kLanes;
      const int lanes = v + 1 < kVectors ? kLanes : count;
      store_lanes(to, load_lanes(to, lanes) + sums[0][r][v], lanes);
    }
  }
}

template <bool kFetches, int kRows, typename T>
inline void multiply_row_block(const TileProduct<T>& p, int64_t row, int64_t columns) {
  // Few rows take many columns at once, so that b is read in its own order.
  constexpr int kWide = kProductRows * 2 / kRows < 8 ? kProductRows * 2 / kRows : 8;
  int64_t column = 0;
  for (; column + kWide * kLanes <= columns; column += kWide * kLanes) {
    multiply_vectors<kFetches, kRows, kWide>(p, row, column, kLanes);
  }
  for (; column + 2 * kLanes <= columns; column += 2 * kLanes) multiply_vectors<kFetches, kRows, 2>(p, row, column, kLanes);
  for (; column < columns; column += kLanes) {
    const int64_t left = columns - column;
    multiply_vectors<kFetches, kRows, 1>(p, row, column, left < kLanes ? int(left) : kLanes);
  }
}

template <bool kFetches, typename T>
inline void multiply_rows(const TileProduct<T>& p, int64_t rows, int64_t columns) {
  int64_t row = 0;
  for (; row + kProductRows <= rows; row += kProductRows) {
    multiply_row_block<kFetches, kProductRows>(p, row, columns);
  }
  for (; row + 4 <= rows; row += 4) multiply_row_block<kFetches, 4>(p, row, columns);
  for (; row + 2 <= rows; row += 2) multiply_row_block<kFetches, 2>(p, row, columns);
  if (row < rows) multiply_row_block<kFetches, 1>(p, row, columns);
}

/// c [rows, columns] += a [rows, depth] · b [depth, columns].
template <typename T>
inline void multiply_tile(const TileProduct<T>& p, int64_t rows, int64_t columns) {
  if (p.next_b) multiply_rows<true>(p, rows, columns);
  else multiply_rows<false>(p, rows, columns);
}

}  // namespace needletail
