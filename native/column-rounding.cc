// GPTQ's rounding within a block of columns: two vectors of rows at a time, one column after the other.
#include <algorithm>

#include "../src/kernels/cpu/vector-math.h"
#include "calibration.h"
#include "needletail.h"
#include "team-work.h"

namespace needletail {
namespace {

constexpr int64_t kTileRows = 2 * kLanes, kMaxWidth = 128;

/// What the rows of a tile have at one column.
struct ColumnNumbers {
  float values[kTileRows], scales[kTileRows], zeros[kTileRows], codes[kTileRows], errors[kTileRows];
};

void gather(const NtColumnRounding& p, int64_t row, int64_t num_rows, int64_t column, ColumnNumbers& numbers) {
  const int64_t scale_columns = 2 * (p.columns / p.group_size), pair = 2 * (column / p.group_size);
  for (int64_t r = 0; r < num_rows; r++) {
    const float* scale = p.scales + (row + r) * scale_columns + pair;
    numbers.values[r] = p.values[(row + r) * p.columns + column];
    numbers.scales[r] = scale[0];
    numbers.zeros[r] = scale[1];
  }
}

/// The codes that come closest to values less what later columns have lost already, `sums` / `diagonal`.
void round_rows(ColumnNumbers& numbers, const float* sums, float diagonal) {
  for (int64_t r = 0; r < kTileRows; r += kLanes) {
    const Floats value = load(numbers.values + r), scale = load(numbers.scales + r), zero = load(numbers.zeros + r);
    const Floats place = (value - load(sums + r) / diagonal) / scale + zero + 0.5f;
    const Floats inside = min(broadcast(15.0f), max(broadcast(0.0f), place));
    const Floats code = to_floats(__builtin_convertvector(inside, Ints));
    store(numbers.codes + r, code);
    store(numbers.errors + r, (code - zero) * scale - value);
  }
}

void round_tile(const NtColumnRounding& p, int64_t row, int64_t num_rows) {
  const int64_t width = p.end - p.start;
  alignas(64) float sums[kMaxWidth * kTileRows] = {};
  alignas(64) ColumnNumbers numbers = {};
  std::fill(numbers.scales, numbers.scales + kTileRows, 1.0f);
  for (int64_t r = 0; r < num_rows; r++) {
    for (int64_t i = 0; i < width; i++) sums[i * kTileRows + r] = p.sums[(row + r) * width + i];
  }
  for (int64_t place = width - 1; place >= 0; place--) {
    const float* factors = p.factor + (p.start + place) * p.columns + p.start;
    const int64_t column = p.order[p.start + place];
    gather(p, row, num_rows, column, numbers);
    round_rows(numbers, sums + place * kTileRows, factors[place]);
    for (int64_t r = 0; r < num_rows; r++) {
      p.codes[(row + r) * p.columns + column] = numbers.codes[r];
      p.errors[(row + r) * p.columns + p.start + place] = numbers.errors[r];
    }
    const Floats low = load(numbers.errors), high = load(numbers.errors + kLanes);
    for (int64_t i = 0; i < place; i++) {
      float* line = sums + i * kTileRows;
      const Floats factor = broadcast(factors[i]);
      store(line, multiply_add(factor, low, load(line)));
      store(line + kLanes, multiply_add(factor, high, load(line + kLanes)));
    }
  }
}

void round_columns(const ThreadContext& context, const NtColumnRounding& p) {
  const int64_t num_tiles = (p.rows + kTileRows - 1) / kTileRows;
  for (int64_t tile; (tile = context.take_chunk()) < num_tiles;) {
    const int64_t row = tile * kTileRows;
    round_tile(p, row, std::min(kTileRows, p.rows - row));
  }
}

}  // namespace
}  // namespace needletail

int32_t nt_column_rounding_submit(void* runtime, const NtColumnRounding* rounding, int32_t job) {
  if (rounding->end - rounding->start > needletail::kMaxWidth) return NT_INVALID_ARGUMENT;
  return needletail::submit_work<NtColumnRounding, needletail::round_columns>(runtime, rounding, job);
}
