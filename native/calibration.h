// What calibration of 4-bit weights computes row by row, as jobs; src/device/cpu/calibration-math.ts writes the fields. Matrices are
// row-major float32, `columns` wide where nothing else is said.
#pragma once

#include <cstdint>

/// src/tensor/range-search.ts defines it.
struct NtRangeSearch {
  const float* values;     // [rows, columns]
  const float* triangles;  // [columns / group_size, group_size, group_size]
  const float* shares;     // [num_shares]
  float* codes;            // [rows, columns]
  float* scales;           // [rows, 2 * columns / group_size]
  int64_t rows, columns, group_size, num_shares;
};

/// src/tensor/column-rounding.ts defines it.
struct NtColumnRounding {
  const float* values;   // [rows, columns]
  const float* scales;   // [rows, 2 * columns / group_size]
  const float* factor;   // [columns, columns]
  const float* sums;     // [rows, end - start]
  const int32_t* order;  // [columns]
  float* codes;          // [rows, columns]
  float* errors;         // [rows, columns]
  int64_t rows, columns, group_size, start, end;
};
