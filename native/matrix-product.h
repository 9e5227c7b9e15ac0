// A product of float32 matrices as a job; src/ffi/cpu-library.ts writes its fields.
#pragma once

#include <cstdint>

/// c [rows, columns] += a [rows, depth] · b [depth, columns]; rows lie `stride` elements apart.
struct NtMatrixProduct {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int64_t rows, depth, columns;
  /// The product is symmetric: only c's diagonal and what lies below it has a meaning then.
  int64_t is_symmetric;
};
