// The tile: a few rows of activations times a few panels of weights, all sums in vector registers.
#pragma once

#include <array>

#include "linear-format.h"

namespace needletail {

/// Rows of a weight (columns of y) that a panel interleaves.
constexpr int kPanelColumns = 16;
constexpr int kPanelVectors = kPanelColumns / kLanes;

// Tile sizes whose sums fill the vector registers: 12 x 2 of 32 (AVX-512), 6 x 2 of 16 (AVX2), 6 x 4 of 32 (NEON).
constexpr int kMaxTileRows = kLanes == 16 ? 12 : 6;
constexpr int kMaxTilePanels = kLanes == 16 ? 2 : 1;

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
};

/// sums[r][v] += one word of each row times one vector of each panel.
template <class Format, int kWord, int kRows, int kVectors>
[[gnu::always_inline]] inline void multiply_word(Floats (&sums)[kRows][kVectors], const float* x,
                                                 const typename Format::Weight* weight, int64_t panel_stride) {
  typename Format::Operand weights[kVectors];
  NEEDLETAIL_UNROLL
  for (int v = 0; v < kVectors; v++) {
    const int vector_start = v % kPanelVectors * kLanes * Format::kColumns;
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

template <class Format, int kRows, int kVectors>
[[gnu::always_inline]] inline void multiply_step(Floats (&sums)[kRows][kVectors], const float* x,
                                                 const typename Format::Weight* weight, int64_t panel_stride) {
  multiply_word<Format, 0>(sums, x, weight, panel_stride);
  if constexpr (Format::kWords == 2) multiply_word<Format, 1>(sums, x, weight, panel_stride);
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
  constexpr int kStepWeights = kPanelColumns * Format::kColumns;
  constexpr int kStepWords = kRows * Format::kWords;
  // Small tiles keep several sums of every element, since one addition must wait for the one before it.
  constexpr int kParts = kRows * kVectors >= 6 ? 1 : kRows * kVectors >= 3 ? 2 : kRows * kVectors == 2 ? 4 : 8;

  Floats sums[kParts][kRows][kVectors] = {};

  const float* x = tile.x;
  const typename Format::Weight* weight = tile.weight;
  const char* ahead = tile.prefetch;
  int32_t steps = tile.steps;
  for (; steps >= kParts; steps -= kParts) {
    NEEDLETAIL_UNROLL
    for (int p = 0; p < kParts; p++) {
      NEEDLETAIL_UNROLL
      for (int panel = 0; panel < kPanels; panel++) prefetch(ahead + panel * tile.panel_stride * sizeof *weight);
      ahead += tile.prefetch_advance;
      multiply_step<Format>(sums[p], x + p * kStepWords, weight + p * kStepWeights, tile.panel_stride);
    }
    x += kParts * kStepWords;
    weight += kParts * kStepWeights;
  }
  for (; steps > 0; steps--, x += kStepWords, weight += kStepWeights) {
    multiply_step<Format>(sums[0], x, weight, tile.panel_stride);
  }

  NEEDLETAIL_UNROLL
  for (int r = 0; r < kRows; r++) {
    NEEDLETAIL_UNROLL
    for (int v = 0; v < kVectors; v++) {
      NEEDLETAIL_UNROLL
      for (int p = 1; p < kParts; p++) sums[0][r][v] = add(sums[0][r][v], sums[p][r][v]);
      write_vector(tile, sums[0][r][v], r, v * kLanes);
    }
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
