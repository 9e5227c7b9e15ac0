// Which rows go to which of several matrices. A row is a (token, slot) pair, token · slots + slot, whose matrix its id names;
// without ids slot s takes matrix s. MATRICES: how many there are; rows of one
// are cut into tiles of TILE_ROWS.
#pragma once
#include "common.cuh"

struct Ids {
  const int* at;  // may be null
  i64 stride;
  int slots;

  __device__ __forceinline__ int operator()(int row) const {
    const int token = row / slots, slot = row % slots;
    return at ? at[token * stride + slot] : slot;
  }
};

/// A matrix's rows, by their places in the order of matrices, and the first of the tiles that they make.
struct MatrixRows { int matrix, first, end, first_tile; };

__device__ __forceinline__ int sum_before(int value) {
  const int lane = threadIdx.x % 32;
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  return sum - value;
}

/// By a warp: adds one to counts[matrix] for each lane whose matrix is not negative; what was there before, of equals in order.
__device__ __forceinline__ int take_place(int* counts, int matrix) {
  const int lane = threadIdx.x % 32;
  const u32 equals = __match_any_sync(0xffffffffu, matrix);
  const int leader = __ffs(equals) - 1;
  int before = 0;
  if (lane == leader && matrix >= 0) before = atomicAdd(&counts[matrix], __popc(equals));
  return __shfl_sync(0xffffffffu, before, leader) + __popc(equals & ((1u << lane) - 1));
}

/// By a whole block: f(row, its matrix) with whole warps; beyond the last row the matrix is -1.
template <typename F> __device__ __forceinline__ void each_row(const Ids& ids, int num_rows, F f) {
  for (int first = threadIdx.x / 32 * 32; first < num_rows; first += blockDim.x) {
    const int row = first + threadIdx.x % 32;
    f(row, row < num_rows ? ids(row) : -1);
  }
}

/// By a whole block: how many rows each matrix has.
__device__ __forceinline__ void count_rows(int* counts, const Ids& ids, int num_rows) {
  for (int i = threadIdx.x; i < MATRICES; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  each_row(ids, num_rows, [&](int, int matrix) { take_place(counts, matrix); });
  __syncthreads();
}

/// By a warp: f(rows of a matrix that has any, how many tiles they make); the number of all tiles.
template <typename F> __device__ __forceinline__ int each_matrix(const int* counts, F f) {
  int rows = 0, tiles = 0;
  for (int i = 0; i < MATRICES; i += 32) {
    const int matrix = i + threadIdx.x % 32;
    const int count = matrix < MATRICES ? counts[matrix] : 0, num_tiles = (count + TILE_ROWS - 1) / TILE_ROWS;
    const int first = rows + sum_before(count), first_tile = tiles + sum_before(num_tiles);
    if (count > 0) f(MatrixRows{matrix, first, first + count, first_tile}, num_tiles);
    rows = __shfl_sync(0xffffffffu, first + count, 31);
    tiles = __shfl_sync(0xffffffffu, first_tile + num_tiles, 31);
  }
  return tiles;
}
