// Packing at load. Rows are converted into a small buffer, from which whole panels are transposed vector by vector.
#include "pack.h"

#include <algorithm>

#include "pack-codes.h"
#include "part-view.h"
#include "row-range.h"

namespace needletail {
namespace {

constexpr int kPanelRows = 16;
/// Columns that are converted at once: 16 rows of them stay in the first-level cache. A multiple of two vectors.
constexpr int kChunkColumns = 256;

template <typename To>
using Rows = To[kPanelRows][kChunkColumns];

/// Convert `count` elements of several rows, in the order of the tensor's memory.
template <typename From, typename To>
void read_rows(const PartView<From>& part, int64_t row, int num_rows, int64_t column, int count, Rows<To>& out) {
  if (part.column_stride == 1) {
    for (int r = 0; r < num_rows; r++) part.read_row(row + r, column, count, out[r]);
    return;
  }
  for (int c = 0; c < count; c++) {
    for (int r = 0; r < num_rows; r++) from_float(to_float(*part.at(row + r, column + c)), &out[r][c]);
  }
}

/// How the words of kLanes rows lie in a panel: one row of 32-bit words for each column, or pair of columns.
inline void store_words(const Floats& words, int64_t index, int first_row, float* panel) {
  store(panel + index * kPanelRows + first_row, words);
}

/// A word holds two columns of a 16-bit type: they go to panel rows of their own, if the second exists.
inline void store_halves(const Floats& words, int64_t index, int first_row, bool has_second, uint16_t* panel) {
  uint16_t* out = panel + 2 * index * kPanelRows + first_row;
  const Shorts first = __builtin_convertvector(as_ints(words), Shorts);
  std::memcpy(out, &first, sizeof first);
  if (!has_second) return;
  const Shorts second = __builtin_convertvector(as_ints(words) >> 16, Shorts);
  std::memcpy(out + kPanelRows, &second, sizeof second);
}

/// Transpose `columns` columns of sixteen rows into `panel`, which starts at the chunk's first column.
template <typename To>
void transpose_chunk(const Rows<To>& rows, int columns, Layout layout, To* panel) {
  constexpr int kWordColumns = sizeof(float) / sizeof(To);
  const int num_words = (columns + kWordColumns - 1) / kWordColumns;
  for (int first_row = 0; first_row < kPanelRows; first_row += kLanes) {
    for (int word = 0; word < num_words; word += kLanes) {
      Floats square[kLanes];
      NEEDLETAIL_UNROLL
      for (int i = 0; i < kLanes; i++) {
        std::memcpy(&square[i], rows[first_row + i] + word * kWordColumns, sizeof square[i]);
      }
      transpose(square);
      const int count = std::min(kLanes, num_words - word);
      for (int i = 0; i < count; i++) {
        if (kWordColumns == 1 || layout == Layout::kPanel16x2) {
          store_words(square[i], word + i, first_row, reinterpret_cast<float*>(panel));
        } else {
          const bool has_second = 2 * (word + i) + 1 < columns;
          store_halves(square[i], word + i, first_row, has_second, reinterpret_cast<uint16_t*>(panel));
        }
      }
    }
  }
}

/// Elements of a panel before a column.
int64_t column_offset(Layout layout, int64_t column) {
  return layout == Layout::kPanel16x2 ? column / 2 * 2 * kPanelRows + column % 2 : column * kPanelRows;
}

/// A panel that other parts share, or that is not full: element by element.
template <typename To>
void place_rows(const Rows<To>& rows, int num_rows, int first_row, int columns, Layout layout, To* panel) {
  const int row_step = layout == Layout::kPanel16x2 ? 2 : 1;
  for (int r = 0; r < num_rows; r++) {
    for (int c = 0; c < columns; c++) panel[column_offset(layout, c) + (first_row + r) * row_step] = rows[r][c];
  }
}

/// Pack what the part has of one panel of the weight.
template <typename From, typename To>
void pack_panel(const NtLoadTask& task, int64_t panel) {
  const PartView<From> part(task);
  const int64_t first = std::max(panel * kPanelRows, task.target_row);
  const int num_rows = std::min((panel + 1) * kPanelRows, task.target_row + task.row_count) - first;
  const int64_t padded_columns = task.layout == Layout::kPanel16x2 ? (task.column_count + 1) / 2 * 2 : task.column_count;
  To* target = static_cast<To*>(task.target) + panel * kPanelRows * padded_columns;
  // A pair of 32-bit columns is no word.
  const bool is_vectorised = num_rows == kPanelRows && (sizeof(To) == 2 || task.layout == Layout::kPanel16);
  alignas(64) Rows<To> rows;
  for (int64_t column = 0; column < task.column_count; column += kChunkColumns) {
    const int columns = std::min<int64_t>(kChunkColumns, task.column_count - column);
    read_rows(part, first - task.target_row, num_rows, column, columns, rows);
    if (columns % 2 == 1) {
      for (int r = 0; r < num_rows; r++) rows[r][columns] = To{};  // what the last column's pair lacks
    }
    To* out = target + column_offset(task.layout, column);
    if (is_vectorised) transpose_chunk(rows, columns, task.layout, out);
    else place_rows(rows, num_rows, first % kPanelRows, columns, task.layout, out);
  }
}

template <typename From, typename To>
void pack(const ThreadContext& context, const NtLoadTask& task) {
  if (task.layout == Layout::kRowMajor) {
    const PartView<From> part(task);
    To* target = static_cast<To*>(task.target) + task.target_row * task.column_count;
    const Range rows = share_of(context, task.row_count);
    for (int64_t row = rows.begin; row < rows.end; row++) {
      part.read_row(row, 0, task.column_count, target + row * task.column_count);
    }
    return;
  }
  const int64_t first_panel = task.target_row / kPanelRows;
  const int64_t end_panel = (task.target_row + task.row_count + kPanelRows - 1) / kPanelRows;
  const Range panels = share_of(context, end_panel - first_panel);
  for (int64_t i = panels.begin; i < panels.end; i++) pack_panel<From, To>(task, first_panel + i);
}

template <typename From>
void pack_from(const ThreadContext& context, const NtLoadTask& task) {
  switch (task.target_dtype) {
    case DType::kBfloat16: return pack<From, Bfloat16>(context, task);
    case DType::kFloat16: return pack<From, Float16>(context, task);
    default: return pack<From, float>(context, task);
  }
}

}  // namespace

void pack_part(const ThreadContext& context, NtLoadTask& task) {
  if (task.holds == NtLoadHolds::kMadeScales) return pack_made_scales(context, task);
  if (task.holds == NtLoadHolds::kCodes || task.holds == NtLoadHolds::kMadeCodes) return pack_codes(context, task);
  if (task.holds == NtLoadHolds::kScales) check_scales(context, task);
  switch (task.source_dtype) {
    case DType::kBfloat16: return pack_from<Bfloat16>(context, task);
    case DType::kFloat16: return pack_from<Float16>(context, task);
    default: return pack_from<float>(context, task);
  }
}

}  // namespace needletail
