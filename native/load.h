// What a device asks for while it loads a plan. src/device/cpu/load-plan.ts writes these.
#pragma once

#include "program.h"

enum class NtLoadKind : int32_t { kPart = 0, kCopy = 1, kRopeTable = 2 };

/// What a part's elements become.
enum class NtLoadHolds : int32_t {
  kNumbers = 0,      // floats in the weight's type
  kCodes = 1,        // codes that the tensor holds
  kScales = 2,       // float32 scales that the tensor holds
  kMadeCodes = 3,    // codes of the tensor's floats
  kMadeScales = 4,   // scales of the tensor's floats
};

struct NtLoadTask {
  NtLoadKind kind;
  needletail::DType source_dtype;
  needletail::DType target_dtype;
  needletail::Layout layout;
  int32_t is_transposed;
  /// Part: from one row that it takes to the next.
  int32_t row_step;
  NtLoadHolds holds;
  /// Of codes and scales: the codes' type, columns that share a scale, and whether zeros stand beside the scales.
  needletail::DType code_dtype;
  int32_t group_size;
  int32_t has_zeros;
  /// Written: a scale is not finite, or zero.
  int32_t has_bad_scale;
  int32_t reserved;
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

static_assert(sizeof(NtLoadTask) == 120, "the device writes it");
