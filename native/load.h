// What a device asks for while it loads a plan. src/device/cpu/load-tasks.ts writes these.
#pragma once

#include "program.h"

enum class NtLoadKind : int32_t { kPart = 0, kCopy = 1, kRopeTable = 2 };

struct NtLoadTask {
  NtLoadKind kind;
  needletail::DType source_dtype;
  needletail::DType target_dtype;
  needletail::Layout layout;
  int32_t is_transposed;
  /// Part: from one row that it takes to the next.
  int32_t row_step;
  const void* source;
  void* target;
  /// Part: columns of the checkpoint's tensor. Copy: bytes. Rope table: columns.
  int64_t source_columns;
  /// Rows and columns of the (transposed) tensor that the part takes. Rope table: `row_count` positions.
  int64_t row_start, row_count, column_start, column_count;
  /// Where its rows go in the weight.
  int64_t target_row;
  /// Rope table: multiplies cosines and sines.
  double factor;
};

static_assert(sizeof(NtLoadTask) == 96, "the device writes it");
