// Products of float32 matrices that are no weights: what calibration computes.
#include "matrix-product.h"

#include <algorithm>
#include <cstring>

#include "../src/kernels/cpu/tile-product.h"
#include "needletail.h"
#include "team-work.h"

namespace needletail {
namespace {

// A panel of b fits the first-level cache, and is used for all rows of a block before the next is fetched.
constexpr int64_t kPanelColumns = 2 * kLanes, kPanelDepth = 8192 / kPanelColumns, kBlockRows = 256;

void add_block(const NtMatrixProduct& p, int64_t row, int64_t column) {
  const int64_t rows = std::min(kBlockRows, p.rows - row), columns = std::min(kPanelColumns, p.columns - column);
  alignas(64) float panel[kPanelDepth * kPanelColumns];
  for (int64_t k = 0; k < p.depth; k += kPanelDepth) {
    const int64_t depth = std::min(kPanelDepth, p.depth - k);
    for (int64_t i = 0; i < depth; i++) {
      std::memcpy(panel + i * kPanelColumns, p.b + (k + i) * p.b_stride + column, columns * sizeof(float));
    }
    const TileProduct<float> tile{p.a + row * p.a_stride + k,         p.a_stride, panel,         kPanelColumns,
                                  p.c + row * p.c_stride + column, p.c_stride, int32_t(depth)};
    multiply_tile(tile, rows, columns);
  }
}

void add_product(const ThreadContext& context, const NtMatrixProduct& p) {
  const int64_t row_blocks = (p.rows + kBlockRows - 1) / kBlockRows;
  const int64_t num_blocks = row_blocks * ((p.columns + kPanelColumns - 1) / kPanelColumns);
  for (int64_t block; (block = context.take_chunk()) < num_blocks;) {
    const int64_t row = block % row_blocks * kBlockRows, column = block / row_blocks * kPanelColumns;
    if (!p.is_symmetric || column < row + kBlockRows) add_block(p, row, column);
  }
}

}  // namespace
}  // namespace needletail

int32_t nt_matrix_product_submit(void* runtime, const NtMatrixProduct* product, int32_t job) {
  return needletail::submit_work<NtMatrixProduct, needletail::add_product>(runtime, product, job);
}
