// The driver of matrix products on packed weights: activations are packed into blocks of rows, columns of y are dealt to
// the threads.
#pragma once

#include <algorithm>

#include "linear-pack.h"
#include "linear-tile.h"
#include "linear.h"
#include "row-range.h"

namespace needletail {

/// A single row of so many words is packed by each thread for itself, which costs less than a barrier.
constexpr int32_t kMaxPrivateWords = 8192;

/// A launch in the format's units.
template <class Format>
struct Product {
  using Weight = typename Format::Weight;
  using Input = typename Format::Input;
  static constexpr int kStepWeights = kPanelColumns * Format::kLaneWeights;

  const LinearArgs& args;
  int32_t steps = divide_up(args.k, Format::kColumns);
  int32_t words = steps * Format::kWords;
  Chunks chunks = Chunks::of<Format>(args.k, args.scales);
  /// Words of a packed row, and the factors of its chunks.
  int32_t row_words = words + kRowFactors * chunks.count;
  // Blocks of equal height, so that 13 rows become 7 + 6 instead of 12 + 1.
  int32_t num_blocks = divide_up(args.m, kMaxTileRows);
  int32_t block_rows = divide_up(args.m, num_blocks);
  int32_t num_panels = divide_up(args.n, kPanelColumns);
  // One row is bound by memory: a single panel at a time reads it in one sequential stream.
  int32_t group_panels = args.m == 1 ? 1 : kMaxTilePanels;
  int32_t num_groups = divide_up(num_panels, group_panels);
  int64_t panel_stride = static_cast<int64_t>(steps) * kStepWeights;
  /// Blocks after one another, each [words][rows], then the factors [chunks][kRowFactors][rows].
  float* packed = static_cast<float*>(args.workspace);

  int rows_of(int32_t block) const { return std::min(block_rows, args.m - block * block_rows); }
  const Input* x_row(int64_t row) const { return static_cast<const Input*>(args.x) + row * args.x_stride; }
  const float* x_scales(int64_t row) const {
    return args.scales.x ? args.scales.x + row * args.scales.x_stride : nullptr;
  }
  float* packed_block(int32_t block) const { return packed + static_cast<int64_t>(block) * block_rows * row_words; }
  float* factors(int32_t block) const { return packed_block(block) + static_cast<int64_t>(words) * rows_of(block); }
  const Weight* panel(int32_t index) const { return static_cast<const Weight*>(args.weight) + index * panel_stride; }
};

/// Pack the vector of words that starts at `word`, for every row of a block.
template <class Format>
void pack_words(const Product<Format>& product, int32_t block, int32_t word) {
  const auto row_at = [&](int r) { return product.x_row(int64_t(block) * product.block_rows + r); };
  pack_vector<Format>(row_at, product.rows_of(block), product.args.k, word, product.words, product.packed_block(block));
}

/// Pack what the rows of the thread's share bring to each chunk.
template <class Format>
void pack_factors(const Product<Format>& product, const ThreadContext& context) {
  const Range rows = share_of(context, product.args.m);
  for (int64_t row = rows.begin; row < rows.end; row++) {
    const int32_t block = row / product.block_rows;
    pack_factors<Format>(product.x_row(row), product.x_scales(row), product.args.k, product.chunks, product.args.scales,
                         row % product.block_rows, product.rows_of(block), product.factors(block));
  }
}

/// Pack this thread's share of the columns of all rows.
template <class Format>
void pack_activations(const Product<Format>& product, const ThreadContext& context) {
  const int64_t num_vectors = divide_up(product.words, kLanes);
  const int64_t first = num_vectors * context.thread / context.num_threads;
  const int64_t last = num_vectors * (context.thread + 1) / context.num_threads;
  for (int32_t block = 0; block < product.num_blocks; block++) {
    for (int64_t vector = first; vector < last; vector++) pack_words(product, block, vector * kLanes);
  }
  if constexpr (Format::kIsScaled) pack_factors(product, context);
}

/// Pack the only row: nothing to transpose.
template <class Format>
void pack_row(const Product<Format>& product, float* packed) {
  const int32_t k = product.args.k;
  for (int32_t word = 0; word < product.words; word += kLanes) {
    const int32_t column = word * Format::kColumns / Format::kWords;
    store(packed + word, Format::load_words(product.x_row(0) + column, k - column));
  }
  if constexpr (Format::kIsScaled) {
    pack_factors<Format>(product.x_row(0), product.x_scales(0), k, product.chunks, product.args.scales, 0, 1,
                         packed + product.words);
  }
}

/// Where the tile of a block of rows prefetches. With one block the weights stream through it; with several only the
/// first one would wait for memory, so that each fetches its share of the next group while it computes.
template <class Format>
void set_prefetch(const Product<Format>& product, int32_t group, int32_t block, Tile<Format>& tile) {
  constexpr int64_t kStepBytes = Product<Format>::kStepWeights * sizeof(typename Format::Weight);
  if (product.num_blocks == 1) {
    tile.prefetch = reinterpret_cast<const char*>(tile.weight) + kPrefetchBytes;
    tile.prefetch_advance = kStepBytes;
    return;
  }
  const int32_t next_group = std::min(group + 1, product.num_groups - 1);
  tile.prefetch_advance = divide_up(kStepBytes, product.num_blocks);
  tile.prefetch = reinterpret_cast<const char*>(product.panel(next_group * product.group_panels)) +
                  block * tile.prefetch_advance * product.steps;
}

/// Compute all rows of the columns of one group of panels.
template <class Format>
void multiply_group(const Product<Format>& product, int32_t group) {
  const LinearArgs& args = product.args;
  const int32_t panel = group * product.group_panels;
  const int32_t num_panels = std::min(product.group_panels, product.num_panels - panel);
  const int32_t column = panel * kPanelColumns;
  Tile<Format> tile;
  tile.weight = product.panel(panel);
  tile.panel_stride = product.panel_stride;
  tile.steps = product.steps;
  tile.bias = args.bias ? args.bias + column : nullptr;
  tile.y_stride = args.y_stride;
  tile.columns = args.n - column;
  for (int32_t block = 0; block < product.num_blocks; block++) {
    tile.x = product.packed_block(block);
    tile.y = args.y + static_cast<int64_t>(block) * product.block_rows * args.y_stride + column;
    if constexpr (Format::kIsScaled) {
      tile.scaling = scaling_of(args.scales, product.chunks, args.k, Format::kColumns, panel, product.factors(block));
    }
    set_prefetch(product, group, block, tile);
    tile_kernel<Format>(product.rows_of(block), num_panels)(tile);
  }
}

/// Groups in a chunk: small enough to keep threads busy to the end when one of them is slowed down, large enough that
/// taking a chunk costs nothing beside it.
template <class Format>
int32_t chunk_groups(const Product<Format>& product, int32_t num_threads) {
  constexpr int64_t kMinChunkWork = 1 << 19;
  const int64_t group_work = product.panel_stride * product.group_panels * (7 + product.args.m);
  const int64_t fair = divide_up(product.num_groups, num_threads);
  return std::min(fair, std::max(divide_up(fair, 16), divide_up(kMinChunkWork, group_work)));
}

template <class Format>
void multiply(const LinearArgs& args, const ThreadContext& context) {
  Product<Format> product{args};
  alignas(64) float row[kMaxPrivateWords + kLanes];
  if (args.m == 1 && product.row_words <= kMaxPrivateWords) {
    product.packed = row;
    pack_row(product, row);
  } else {
    pack_activations(product, context);
    context.barrier();
  }
  const int32_t chunk = chunk_groups(product, context.num_threads);
  for (int64_t first; (first = context.take_chunk() * chunk) < product.num_groups;) {
    const int64_t last = std::min<int64_t>(first + chunk, product.num_groups);
    for (int64_t group = first; group < last; group++) multiply_group(product, group);
  }
}

}  // namespace needletail
