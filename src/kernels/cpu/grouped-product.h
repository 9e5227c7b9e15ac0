// The driver of grouped matrix products: rows are sorted by the matrix that they go through and packed; strips of each
// matrix that has rows are dealt to the threads. The tiles are those of linear.
#pragma once

#include <algorithm>

#include "linear-pack.h"
#include "linear-tile.h"
#include "row-range.h"

namespace needletail {

constexpr int kMaxStripColumns = kMaxTilePanels * kPanelColumns;

/// Rows of one matrix in blocks of equal height that a tile takes.
struct Blocks {
  int32_t num_rows;
  int32_t count = divide_up(num_rows, kMaxTileRows);
  int32_t height = count == 0 ? 0 : divide_up(num_rows, count);

  int32_t first_row(int32_t block) const { return block * height; }
  int rows_of(int32_t block) const { return std::min(height, num_rows - block * height); }
};

/// A launch's operands. Ids and bias may be absent; scales are for weights that are codes.
struct GroupedArgs {
  const Operand &x, &weight, &ids, &bias, &y;
  int32_t num_matrices, per_token;
  CodeScales scales;
};

/// A launch in the format's units. An item is one of the matrices that a token goes through: token · per_token + place.
template <class Format>
struct GroupedProduct {
  using Input = typename Format::Input;
  using Weight = typename Format::Weight;
  static constexpr int kStepWeights = kPanelColumns * Format::kLaneWeights;

  const Operand &x, &weight, &ids, &bias, &y;
  int32_t num_matrices, per_token, num_items;
  int32_t inputs, outputs;  // of one matrix
  int32_t steps, words;
  int64_t panel_stride;
  CodeScales scales;
  Chunks chunks;
  int32_t row_words;  // of a packed row: its words and the factors of its chunks
  // The workspace.
  float* packed;    // [num_items] rows, sorted by matrix; each block is [words][rows], then [chunks][kRowFactors][rows]
  int32_t* order;   // [num_items], the items by matrix
  int32_t* starts;  // [num_matrices + 1], where each matrix's begin

  GroupedProduct(const GroupedArgs& args, int32_t num_tokens, uint8_t* workspace)
      : x(args.x),
        weight(args.weight),
        ids(args.ids),
        bias(args.bias),
        y(args.y),
        num_matrices(args.num_matrices),
        per_token(args.per_token),
        num_items(num_tokens * per_token),
        inputs(int32_t(weight.columns)),
        outputs(int32_t(weight.rows / num_matrices)),
        steps(divide_up(inputs, Format::kColumns)),
        words(steps * Format::kWords),
        panel_stride(int64_t(steps) * kStepWeights),
        scales(args.scales),
        chunks(Chunks::of<Format>(inputs, scales)),
        row_words(words + kRowFactors * chunks.count),
        packed(reinterpret_cast<float*>(workspace)),
        order(reinterpret_cast<int32_t*>(packed + int64_t(num_items) * row_words)),
        starts(order + num_items) {}

  int32_t matrix_of(int32_t item) const {
    const int32_t place = item % per_token;
    return ids.is_present() ? ids.row<int32_t>(item / per_token)[place] : place;
  }
  Blocks blocks_of(int32_t matrix) const { return {starts[matrix + 1] - starts[matrix]}; }
  /// What an item multiplies: columns of its own, or all of its token's.
  const Input* input(int32_t item) const { return x.row<const Input>(item / per_token) + first_column(item); }
  const float* input_scales(int32_t item) const {
    if (!scales.x) return nullptr;
    return scales.x + item / per_token * scales.x_stride + first_column(item) / scales.x_group_size;
  }
  int64_t first_column(int32_t item) const { return x.columns == inputs ? 0 : int64_t(item % per_token) * inputs; }
  float* output(int32_t item) const { return y.row(item / per_token) + int64_t(item % per_token) * outputs; }
  float* packed_rows(int32_t sorted_row) const { return packed + int64_t(sorted_row) * row_words; }
  /// Those of a block of `rows` rows.
  float* factors(int32_t sorted_row, int rows) const { return packed_rows(sorted_row) + int64_t(words) * rows; }
  const Weight* panel(int32_t index) const { return static_cast<const Weight*>(weight.data) + index * panel_stride; }
  // Where a matrix has no multiple of 16 rows, it shares panels with its neighbours.
  int32_t first_panel(int32_t matrix) const { return int32_t(int64_t(matrix) * outputs / kPanelColumns); }
  int32_t end_panel(int32_t matrix) const { return int32_t(divide_up(int64_t(matrix + 1) * outputs, kPanelColumns)); }
  /// Panels of a strip. One row is bound by memory: a single panel at a time reads it in one sequential stream.
  int32_t strip_panels(int32_t matrix) const { return starts[matrix + 1] - starts[matrix] == 1 ? 1 : kMaxTilePanels; }
  int32_t num_strips(int32_t matrix) const {
    if (starts[matrix] == starts[matrix + 1]) return 0;
    return divide_up(end_panel(matrix) - first_panel(matrix), strip_panels(matrix));
  }
};

/// Counting sort of the items by matrix.
template <class Format>
void sort_items(const GroupedProduct<Format>& product) {
  int32_t* starts = product.starts;
  std::fill(starts, starts + product.num_matrices + 1, 0);
  for (int32_t item = 0; item < product.num_items; item++) starts[product.matrix_of(item) + 1]++;
  for (int32_t matrix = 0; matrix < product.num_matrices; matrix++) starts[matrix + 1] += starts[matrix];
  for (int32_t item = 0; item < product.num_items; item++) product.order[starts[product.matrix_of(item)]++] = item;
  // Each start has moved on to the next matrix's.
  for (int32_t matrix = product.num_matrices; matrix > 0; matrix--) starts[matrix] = starts[matrix - 1];
  starts[0] = 0;
}

/// Pack the vector of words that starts at `word`, for `rows` items in order from `first` on.
template <class Format>
void pack_words(const GroupedProduct<Format>& product, int32_t first, int rows, int32_t word) {
  const auto row_at = [&](int r) { return product.input(product.order[first + r]); };
  pack_vector<Format>(row_at, rows, product.inputs, word, product.words, product.packed_rows(first));
}

/// Pack what this thread's share of a block's rows bring to each chunk.
template <class Format>
void pack_block_factors(const GroupedProduct<Format>& product, int32_t first, int rows, const ThreadContext& context) {
  for (int row = context.thread; row < rows; row += context.num_threads) {
    const int32_t item = product.order[first + row];
    pack_factors<Format>(product.input(item), product.input_scales(item), product.inputs, product.chunks,
                         product.scales, row, rows, product.factors(first, rows));
  }
}

/// Pack this thread's share of the columns of all items.
template <class Format>
void pack_items(const GroupedProduct<Format>& product, const ThreadContext& context) {
  const int64_t num_vectors = divide_up(product.words, kLanes);
  const int64_t begin = num_vectors * context.thread / context.num_threads;
  const int64_t end = num_vectors * (context.thread + 1) / context.num_threads;
  for (int32_t matrix = 0; matrix < product.num_matrices; matrix++) {
    const Blocks blocks = product.blocks_of(matrix);
    for (int32_t block = 0; block < blocks.count; block++) {
      const int32_t first = product.starts[matrix] + blocks.first_row(block);
      for (int64_t i = begin; i < end; i++) pack_words(product, first, blocks.rows_of(block), int32_t(i * kLanes));
      if constexpr (Format::kIsScaled) pack_block_factors(product, first, blocks.rows_of(block), context);
    }
  }
}

/// Give the rows of a finished tile, which starts at column `column` of all matrices together, to their items.
template <class Format>
void scatter(const GroupedProduct<Format>& product, const float* tile, int32_t first, int rows, int64_t column, int columns,
             int32_t matrix) {
  const int64_t matrix_start = int64_t(matrix) * product.outputs;
  const int64_t begin = std::max(column, matrix_start);
  const int64_t end = std::min(column + columns, matrix_start + product.outputs);
  for (int r = 0; r < rows; r++) {
    const float* from = tile + r * kMaxStripColumns + (begin - column);
    std::copy(from, from + (end - begin), product.output(product.order[first + r]) + (begin - matrix_start));
  }
}

/// Compute all rows of a matrix for one strip of its panels.
template <class Format>
void multiply_strip(const GroupedProduct<Format>& product, int32_t matrix, int32_t strip) {
  const int32_t panel = product.first_panel(matrix) + strip * product.strip_panels(matrix);
  const int32_t num_panels = std::min(product.strip_panels(matrix), product.end_panel(matrix) - panel);
  const int64_t column = int64_t(panel) * kPanelColumns;
  alignas(64) float results[kMaxTileRows * kMaxStripColumns];
  Tile<Format> tile;
  tile.weight = product.panel(panel);
  tile.panel_stride = product.panel_stride;
  tile.steps = product.steps;
  tile.prefetch = reinterpret_cast<const char*>(tile.weight) + kPrefetchBytes;
  tile.prefetch_advance = product.kStepWeights * sizeof(typename Format::Weight);
  tile.bias = product.bias.is_present() ? product.bias.row(0) + column : nullptr;
  tile.y = results;
  tile.y_stride = kMaxStripColumns;
  tile.columns = int32_t(std::min<int64_t>(num_panels * kPanelColumns, product.weight.rows - column));
  const Blocks blocks = product.blocks_of(matrix);
  for (int32_t block = 0; block < blocks.count; block++) {
    const int32_t first = product.starts[matrix] + blocks.first_row(block);
    tile.x = product.packed_rows(first);
    if constexpr (Format::kIsScaled) {
      const float* factors = product.factors(first, blocks.rows_of(block));
      tile.scaling = scaling_of(product.scales, product.chunks, product.inputs, Format::kColumns, panel, factors);
    }
    tile_kernel<Format>(blocks.rows_of(block), num_panels)(tile);
    scatter(product, results, first, blocks.rows_of(block), column, tile.columns, matrix);
    // The strip is in the cache now.
    tile.prefetch = reinterpret_cast<const char*>(tile.weight);
    tile.prefetch_advance = 0;
  }
}

template <class Format>
void multiply_grouped(const GroupedArgs& args, int32_t num_tokens, uint8_t* workspace, const ThreadContext& context) {
  const GroupedProduct<Format> product(args, num_tokens, workspace);
  if (context.thread == 0) sort_items(product);
  context.barrier();
  pack_items(product, context);
  context.barrier();
  int32_t matrix = 0;
  int64_t first_strip = 0;  // of the matrix, among those of all groups
  for (int64_t number = context.take_chunk();; number = context.take_chunk()) {
    while (matrix < product.num_matrices && number - first_strip >= product.num_strips(matrix)) {
      first_strip += product.num_strips(matrix++);
    }
    if (matrix == product.num_matrices) return;
    multiply_strip(product, matrix, int32_t(number - first_strip));
  }
}

}  // namespace needletail
