// embedding and gatherRows: row `ids[i]` of a table becomes row i. X: the table's type, Y: the output's, VEC: elements per access.
#include "common.cuh"

extern "C" __global__ void copy_rows(const int* ids, const int* num_rows, const X* table, i64 table_stride, Y* y,
                                     i64 y_stride, int columns) {
  const int row = blockIdx.x;
  if (row >= *num_rows) return;
  const X* source = table + ids[row] * table_stride;
  for (int i = threadIdx.x * VEC; i < columns; i += blockDim.x * VEC) {
    const Vec<X, VEC> values = load<VEC>(source + i);
    Vec<Y, VEC> result;
#pragma unroll
    for (int j = 0; j < VEC; j++) result.at[j] = from_float<Y>(to_float(values.at[j]));
    store<VEC>(y + row * y_stride + i, result);
  }
}
