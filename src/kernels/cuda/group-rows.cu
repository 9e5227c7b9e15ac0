// Rows in the order of the matrices that they go to, for grouped products of many rows: a list of tiles, and the rows themselves
// beside each other. X: of x. A row has `columns` of its own, or all slots of a token share them (columns_per_slot 0).
#include "dequantize.cuh"
#include "expert-rows.cuh"

/// One block.
extern "C" __global__ void __launch_bounds__(1024)
    group_rows(const int* num_tokens, const int* ids, i64 ids_stride, int slots, int* order, MatrixRows* tiles,
               int* num_tiles) {
  let_next_start();
  wait_for_previous();
  group({ids, ids_stride, slots}, *num_tokens * slots, blockDim.x, {order, tiles, num_tiles});
}

/// A block for each place: copies its row, and of codes its scale.
extern "C" __global__ void __launch_bounds__(128)
    gather_grouped(const int* num_tokens, const int* order, const X* x, i64 x_stride, const float* scales, i64 scales_stride,
                   X* gathered, float* gathered_scales, int slots, int columns, int columns_per_slot) {
  let_next_start();
  wait_for_previous();
  const i64 place = blockIdx.x;
  if (place >= i64(*num_tokens) * slots) return;
  const int row = order[place], token = row / slots, slot = row % slots;
  const uint4* from = reinterpret_cast<const uint4*>(x + token * x_stride + slot * columns_per_slot);
  uint4* to = reinterpret_cast<uint4*>(gathered + place * columns);
  for (int i = threadIdx.x; i < columns * int(sizeof(X)) / 16; i += 128) to[i] = from[i];
  if (scales && threadIdx.x == 0) gathered_scales[place] = scales[token * scales_stride + (columns_per_slot ? slot : 0)];
}
