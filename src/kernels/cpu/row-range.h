// How rowwise and elementwise kernels share their work: each thread takes an equal run of rows, or of pieces of rows.
#pragma once

#include <algorithm>

#include "program.h"

namespace needletail {

struct Range {
  int64_t begin, end;
};

/// The thread's share of `count` things: runs of equal length, give or take one.
inline Range share_of(const ThreadContext& context, int64_t count) {
  return {count * context.thread / context.num_threads, count * (context.thread + 1) / context.num_threads};
}

/// `f(row, begin, end)` for column ranges that cover `rows` x `columns` between all threads. A single long row, as in
/// decoding, is worth splitting too.
template <typename F>
inline void for_each_piece(const ThreadContext& context, int64_t rows, int64_t columns, F f) {
  constexpr int64_t kPieceColumns = 1024;
  const int64_t pieces_per_row = (columns + kPieceColumns - 1) / kPieceColumns;
  const Range pieces = share_of(context, rows * pieces_per_row);
  for (int64_t piece = pieces.begin; piece < pieces.end; piece++) {
    const int64_t begin = piece % pieces_per_row * kPieceColumns;
    f(piece / pieces_per_row, begin, std::min(begin + kPieceColumns, columns));
  }
}

}  // namespace needletail
