// The tile: a few rows of activations times a few panels of weights, all sums in vector registers.
#pragma once

#include <algorithm>
#include <array>

#include "linear-format.h"
#include "vector-math.h"

namespace needletail {

/// Rows of a weight (columns of y) that a panel interleaves.
constexpr int kPanelColumns = 16;
constexpr int kPanelVectors = kPanelColumns / kLanes;

// Tile sizes whose sums fill the vector registers: 12 x 2 of 32 (AVX-512), 6 x 2 of 16 (AVX2), 6 x 4 of 32 (NEON).
constexpr int kMaxTileRows = kLanes == 16 ? 12 : 6;
constexpr int kMaxTilePanels = kLanes == 16 ? 2 : 1;

/// How far ahead weights are prefetched while they stream through a panel.
constexpr int64_t kPrefetchBytes = 4096;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Where the scales of codes lie and which columns share them. A chunk is a run of columns whose sums are scaled alike.
struct Scaling {
  /// Of the tile's first panel, and floats from one panel to the next. For each group of columns: scales of a panel's
  /// rows, then, if there are any, their zeros.
  const float* scales;
  int64_t panel_stride;
  /// Steps of a chunk; the last may have fewer.
  int32_t chunk_steps;
  int32_t chunks_per_group;
  bool has_zeros;
  /// What the rows of activations bring to each chunk; see RowFactors.
  const float* row_factors;
};

/// For one chunk and the rows of a block: what their sums start with, how they are scaled, and what a zero takes away.
template <int kRows>
struct RowFactors {
  float starts[kRows];  // of the format's Sum
  float scales[kRows];
  float scaled_sums[kRows];
};
/// Words of RowFactors per row.
constexpr int kRowFactors = 3;

template <class Format>
struct Tile {
  const float* x;
  const typename Format::Weight* weight;
  /// Weights from one panel to the next.
  int64_t panel_stride;
  int32_t steps;
  /// Where to prefetch weights from, and how many bytes further at each step.
  const char* prefetch;
  int64_t prefetch_advance;
  /// [columns] or null.
  const float* bias;
  float* y;
  int64_t y_stride;
  /// Columns of y that exist; those of the panels beyond them are dropped.
  int32_t columns;
  /// For formats that are scaled.
  Scaling scaling;
};

/// sums[r][v] += one word of each row times one vector of each panel.
template <class Format, int kWord, int kRows, int kVectors>
[[gnu::always_inline]] inline void multiply_word(typename Format::Sum (&sums)[kRows][kVectors], const float* x,
                                                 const typename Format::Weight* weight, int64_t panel_stride) {
  typename Format::Operand weights[kVectors];
  NEEDLETAIL_UNROLL
  for (int v = 0; v < kVectors; v++) {
    const int vector_start = v % kPanelVectors * kLanes * Format::kLaneWeights;
    weights[v] = Format::template load_weights<kWord>(weight + v / kPanelVectors * panel_stride + vector_start);
  }
  // A broadcast that only one instruction uses is folded into it, which leaves the arithmetic ports to the products;
  // so each vector reads the activations through a pointer of its own, as far as the compiler can tell.
  const float* views[kVectors];
  NEEDLETAIL_UNROLL
  for (int v = 0; v < kVectors; v++) {
    views[v] = x + kWord * kRows;
    if (Format::kFoldBroadcast && v > 0) asm("" : "+r"(views[v]));
  }
  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) {
      sums[r][v] = Format::multiply_add(Format::spread(views[v] + r), weights[v], sums[r][v]);
    }
  }
}

template <class Format, int kRows, int kVectors, int... kWord>
[[gnu::always_inline]] inline void multiply_words(typename Format::Sum (&sums)[kRows][kVectors], const float* x,
                                                  const typename Format::Weight* weight, int64_t panel_stride,
                                                  std::integer_sequence<int, kWord...>) {
  (multiply_word<Format, kWord>(sums, x, weight, panel_stride), ...);
}

/// Where a tile has got to along K.
template <class Format>
struct Cursor {
  const float* x;
  const typename Format::Weight* weight;
  const char* ahead;
};

/// Add the products of `steps` steps.
template <class Format, int kRows, int kPanels>
[[gnu::always_inline]] inline void multiply_steps(typename Format::Sum (&sums)[kRows][kPanels * kPanelVectors],
                                                  const Tile<Format>& tile, Cursor<Format>& at, int32_t steps) {
  using Sum = typename Format::Sum;
  constexpr int kVectors = kPanels * kPanelVectors;
  constexpr int kStepWeights = kPanelColumns * Format::kLaneWeights;
  constexpr int kStepWords = kRows * Format::kWords;
  constexpr auto kAllWords = std::make_integer_sequence<int, Format::kWords>{};
  // Small tiles keep several sums of every element, since one addition must wait for the one before it.
  constexpr int kParts = kRows * kVectors >= 6 ? 1 : kRows * kVectors >= 3 ? 2 : kRows * kVectors == 2 ? 4 : 8;

  Sum parts[kParts][kRows][kVectors] = {};
  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) parts[0][r][v] = sums[r][v];
  }
  const float* x = at.x;
  const typename Format::Weight* weight = at.weight;
  const char* ahead = at.ahead;
  for (; steps >= kParts; steps -= kParts) {
    NEEDLETAIL_UNROLL
    for (int p = 0; p < kParts; p++) {
      NEEDLETAIL_UNROLL
      for (int panel = 0; panel < kPanels; panel++) prefetch(ahead + panel * tile.panel_stride * sizeof *weight);
      ahead += tile.prefetch_advance;
      multiply_words<Format>(parts[p], x + p * kStepWords, weight + p * kStepWeights, tile.panel_stride, kAllWords);
    }
    x += kParts * kStepWords;
    weight += kParts * kStepWeights;
  }
  for (; steps > 0; steps--, x += kStepWords, weight += kStepWeights) {
    multiply_words<Format>(parts[0], x, weight, tile.panel_stride, kAllWords);
  }
  at = {x, weight, ahead};
  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) {
      NEEDLETAIL_UNROLL
      for (int p = 1; p < kParts; p++) parts[0][r][v] = parts[0][r][v] + parts[p][r][v];
      sums[r][v] = parts[0][r][v];
    }
  }
}

/// totals += the scaled sums of one chunk, whose factors are `factors`.
template <class Format, int kRows, int kPanels>
[[gnu::always_inline]] inline void add_chunk(Floats (&totals)[kRows][kPanels * kPanelVectors],
                                             const typename Format::Sum (&sums)[kRows][kPanels * kPanelVectors],
                                             const Scaling& scaling, const float* scales,
                                             const RowFactors<kRows>& factors) {
  NEEDLETAIL_UNROLL
  for (int v = 0; v < kPanels * kPanelVectors; v++) {
    const float* place = scales + v / kPanelVectors * scaling.panel_stride + v % kPanelVectors * kLanes;
    const Floats scale = load(place);
    NEEDLETAIL_UNROLL
    for (int r = 0; r < kRows; r++) {
      totals[r][v] = multiply_add(to_floats(sums[r][v]), scale * factors.scales[r], totals[r][v]);
    }
    if (!scaling.has_zeros) continue;
    const Floats scaled_zero = load(place + kPanelColumns) * scale;
    NEEDLETAIL_UNROLL
    for (int r = 0; r < kRows; r++) totals[r][v] = totals[r][v] - scaled_zero * factors.scaled_sums[r];
  }
}

/// The sums of codes, chunk by chunk.
template <class Format, int kRows, int kPanels>
[[gnu::always_inline]] inline void multiply_chunks(Floats (&totals)[kRows][kPanels * kPanelVectors],
                                                   const Tile<Format>& tile, Cursor<Format>& at) {
  constexpr int kVectors = kPanels * kPanelVectors;
  const Scaling& scaling = tile.scaling;
  const auto* factors = reinterpret_cast<const RowFactors<kRows>*>(scaling.row_factors);
  const int64_t group_scales = (scaling.has_zeros ? 2 : 1) * kPanelColumns;
  const float* scales = scaling.scales;
  int32_t chunk_of_group = 0;
  for (int32_t steps = tile.steps; steps > 0; steps -= scaling.chunk_steps, factors++) {
    typename Format::Sum sums[kRows][kVectors];
    NEEDLETAIL_UNROLL
    for (int r = 0; r < kRows; r++) {
      NEEDLETAIL_UNROLL
      for (int v = 0; v < kVectors; v++) sums[r][v] = (typename Format::Sum)broadcast(factors->starts[r]);
    }
    multiply_steps<Format, kRows, kPanels>(sums, tile, at, std::min(steps, scaling.chunk_steps));
    add_chunk<Format, kRows, kPanels>(totals, sums, scaling, scales, *factors);
    if (++chunk_of_group < scaling.chunks_per_group) continue;
    chunk_of_group = 0;
    scales += group_scales;
  }
}

/// Write a vector of y of which only `columns` lanes exist, or none. Apart, because it is rare: inlined into the loops of
/// a tile it keeps compilers from unrolling them in time to have the sums in registers.
[[gnu::noinline]] inline void write_first(float* y, const float* bias, Floats sum, int32_t columns) {
  if (columns > 0) store_first(y, bias ? add(sum, load_first(bias, columns)) : sum, columns);
}

template <class Format>
inline void write_vector(const Tile<Format>& tile, Floats sum, int row, int column) {
  float* y = tile.y + row * tile.y_stride + column;
  const float* bias = tile.bias ? tile.bias + column : nullptr;
  if (tile.columns - column < kLanes) write_first(y, bias, sum, tile.columns - column);
  else store(y, bias ? add(sum, load(bias)) : sum);
}

template <class Format, int kRows, int kPanels>
[[gnu::noinline]] void multiply_tile(const Tile<Format>& tile) {
  constexpr int kVectors = kPanels * kPanelVectors;
  Floats totals[kRows][kVectors] = {};
  Cursor<Format> at{tile.x, tile.weight, tile.prefetch};
  if constexpr (Format::kIsScaled) multiply_chunks<Format, kRows, kPanels>(totals, tile, at);
  else multiply_steps<Format, kRows, kPanels>(totals, tile, at, tile.steps);
  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) write_vector(tile, totals[r][v], r, v * kLanes);
  }
}

template <class Format>
using TileKernel = void (*)(const Tile<Format>&);

template <class Format, int kPanels, int... kRow>
constexpr std::array<TileKernel<Format>, kMaxTileRows> tile_kernels(std::integer_sequence<int, kRow...>) {
  return {multiply_tile<Format, kRow + 1, kPanels>...};
}

/// The tile of `rows` x `panels`, at most kMaxTileRows x kMaxTilePanels.
template <class Format>
TileKernel<Format> tile_kernel(int rows, int panels) {
  constexpr auto kRows = std::make_integer_sequence<int, kMaxTileRows>{};
  static constexpr auto kOnePanel = tile_kernels<Format, 1>(kRows);
  static constexpr auto kAllPanels = tile_kernels<Format, kMaxTilePanels>(kRows);
  return (panels == 1 ? kOnePanel : kAllPanels)[rows - 1];
}

}  // namespace needletail
