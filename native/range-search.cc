// The ranges of groups of 4-bit codes that a product loses least by: two vectors of rows at a time, which try one candidate
// after the other.
#include <algorithm>
#include <memory>

#include "../src/kernels/cpu/tile-product.h"
#include "calibration.h"
#include "needletail.h"
#include "runtime.h"

namespace needletail {
namespace {

constexpr int kTileRows = 2 * kLanes;

/// A number for each row of a tile.
struct TileFloats {
  Floats v[2];
};

inline TileFloats load_tile(const float* p) { return {{load(p), load(p + kLanes)}}; }
inline void store_tile(float* p, const TileFloats& t) {
  store(p, t.v[0]);
  store(p + kLanes, t.v[1]);
}

/// Of a group of columns in a tile's rows.
struct Codebook {
  TileFloats scale, zero;
};

/// Under which `least` has the code 0 and `most` the code 15.
Codebook codebook_of(const TileFloats& least, const TileFloats& most) {
  Codebook book;
  for (int i = 0; i < 2; i++) {
    const Floats scale = (most.v[i] - least.v[i]) / 15.0f;
    book.scale.v[i] = select(scale > 0.0f, scale, broadcast(1.0f));
    book.zero.v[i] = (0.0f - least.v[i]) / book.scale.v[i];
  }
  return book;
}

/// The code at `place`, which half of a step has been added to.
inline Floats code_at(Floats place) {
  const Floats inside = min(broadcast(15.0f), max(zeros(), place));
  return to_floats(__builtin_convertvector(inside, Ints));
}

/// One group of columns in a tile of rows; its arrays have a line of kTileRows for each column.
struct GroupSearch {
  const NtRangeSearch& search;
  const float* triangle;
  float* values;
  float* errors;

  void read(int64_t row, int64_t num_rows, int64_t column) const {
    for (int64_t i = 0; i < search.group_size; i++) {
      float* line = values + i * kTileRows;
      const float* from = search.values + row * search.columns + column + i;
      for (int64_t r = 0; r < kTileRows; r++) line[r] = r < num_rows ? from[r * search.columns] : 0.0f;
    }
  }

  /// The smallest and the largest value, or 0 where all are on one side of it.
  void find_range(TileFloats& least, TileFloats& most) const {
    least = most = {{zeros(), zeros()}};
    for (int64_t column = 0; column < search.group_size; column++) {
      const TileFloats value = load_tile(values + column * kTileRows);
      for (int i = 0; i < 2; i++) {
        least.v[i] = min(least.v[i], value.v[i]);
        most.v[i] = max(most.v[i], value.v[i]);
      }
    }
  }

  void write_errors(const Codebook& book) const {
    Floats inverse[2], offset[2];
    for (int i = 0; i < 2; i++) {
      inverse[i] = 1.0f / book.scale.v[i];
      offset[i] = book.zero.v[i] + 0.5f;
    }
    for (int64_t column = 0; column < search.group_size; column++) {
      const TileFloats value = load_tile(values + column * kTileRows);
      TileFloats error;
      for (int i = 0; i < 2; i++) {
        const Floats code = code_at(multiply_add(value.v[i], inverse[i], offset[i]));
        error.v[i] = (code - book.zero.v[i]) * book.scale.v[i] - value.v[i];
      }
      store_tile(errors + column * kTileRows, error);
    }
  }

  /// Errors · triangle · errorsᵀ of each row.
  TileFloats loss() const {
    const int64_t size = search.group_size;
    TileFloats sum = {{zeros(), zeros()}};
    for (int64_t start = 0; start < size; start += kProductRows) {
      const int64_t rows = std::min<int64_t>(kProductRows, size - start);
      alignas(64) float products[kProductRows * kTileRows] = {};
      multiply_tile(TileProduct<float>{triangle + start * size, size, errors, kTileRows, products, kTileRows,
                                       int32_t(start + rows)},
                    rows, kTileRows);
      for (int64_t r = 0; r < rows; r++) {
        const TileFloats error = load_tile(errors + (start + r) * kTileRows), product = load_tile(products + r * kTileRows);
        for (int i = 0; i < 2; i++) sum.v[i] = multiply_add(error.v[i], product.v[i], sum.v[i]);
      }
    }
    return sum;
  }

  Codebook find_best() const {
    TileFloats lowest, highest;
    find_range(lowest, highest);
    Codebook best = codebook_of(lowest, highest);
    const Floats unknown = broadcast(__builtin_inff());
    TileFloats least_loss = {{unknown, unknown}};
    for (int64_t candidate = 0; candidate < search.num_shares * search.num_shares; candidate++) {
      const float lower = search.shares[candidate / search.num_shares], upper = search.shares[candidate % search.num_shares];
      TileFloats least, most;
      for (int i = 0; i < 2; i++) {
        least.v[i] = lower * lowest.v[i];
        most.v[i] = upper * highest.v[i];
      }
      const Codebook book = codebook_of(least, most);
      write_errors(book);
      const TileFloats tried = loss();
      for (int i = 0; i < 2; i++) {
        const Ints is_better = tried.v[i] < least_loss.v[i];
        least_loss.v[i] = select(is_better, tried.v[i], least_loss.v[i]);
        best.scale.v[i] = select(is_better, book.scale.v[i], best.scale.v[i]);
        best.zero.v[i] = select(is_better, book.zero.v[i], best.zero.v[i]);
      }
    }
    return best;
  }

  void write(const Codebook& book, int64_t row, int64_t num_rows, int64_t column) const {
    float scales[kTileRows], zero_points[kTileRows], codes[kTileRows];
    store_tile(scales, book.scale);
    store_tile(zero_points, book.zero);
    const int64_t scale_columns = 2 * (search.columns / search.group_size), pair = 2 * (column / search.group_size);
    for (int64_t r = 0; r < num_rows; r++) {
      float* to = search.scales + (row + r) * scale_columns + pair;
      to[0] = scales[r];
      to[1] = zero_points[r];
    }
    for (int64_t i = 0; i < search.group_size; i++) {
      const TileFloats value = load_tile(values + i * kTileRows);
      for (int v = 0; v < 2; v++) {
        store(codes + v * kLanes, code_at(value.v[v] / book.scale.v[v] + book.zero.v[v] + 0.5f));
      }
      for (int64_t r = 0; r < num_rows; r++) search.codes[(row + r) * search.columns + column + i] = codes[r];
    }
  }
};

struct SearchJob {
  NtRangeSearch search;
  /// For each thread two arrays of a group's values.
  std::unique_ptr<float[]> scratch;
};

void search_ranges(const ThreadContext& context, void* argument) {
  const auto& job = *static_cast<const SearchJob*>(argument);
  const NtRangeSearch& search = job.search;
  const int64_t size = search.group_size, tile_floats = size * kTileRows;
  float* scratch = job.scratch.get() + context.thread * 2 * tile_floats;
  const int64_t num_tiles = (search.rows + kTileRows - 1) / kTileRows, num_groups = search.columns / size;
  for (int64_t chunk; (chunk = context.take_chunk()) < num_groups * num_tiles;) {
    const int64_t group = chunk / num_tiles, row = chunk % num_tiles * kTileRows;
    const int64_t num_rows = std::min<int64_t>(kTileRows, search.rows - row);
    const GroupSearch of_group{search, search.triangles + group * size * size, scratch, scratch + tile_floats};
    of_group.read(row, num_rows, group * size);
    of_group.write(of_group.find_best(), row, num_rows, group * size);
  }
}

int32_t run_search(Runtime& runtime, void* argument) {
  const std::unique_ptr<SearchJob> job(static_cast<SearchJob*>(argument));
  const int64_t floats = 2 * job->search.group_size * kTileRows * runtime.num_threads();
  job->scratch.reset(new (std::nothrow) float[floats]);
  if (!job->scratch) return NT_OUT_OF_MEMORY;
  runtime.run_on_all(search_ranges, job.get());
  return NT_OK;
}

}  // namespace
}  // namespace needletail

int32_t nt_range_search_submit(void* runtime, const NtRangeSearch* search, int32_t job) {
  auto* argument = new (std::nothrow) needletail::SearchJob{*search, nullptr};
  if (!argument) return NT_OUT_OF_MEMORY;
  static_cast<needletail::Runtime*>(runtime)->submit({needletail::run_search, argument, job});
  return NT_OK;
}
