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

/// By whole warps, of `num_threads` threads in all: f(row, its matrix); beyond the last row the matrix is -1.
template <typename F> __device__ __forceinline__ void each_row(const Ids& ids, int num_rows, int num_threads, F f) {
  for (int first = threadIdx.x / 32 * 32; first < num_rows; first += num_threads) {
    const int row = first + threadIdx.x % 32;
    f(row, row < num_rows ? ids(row) : -1);
  }
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

/// Rows in the order of their matrices, and whose each tile is.
struct RowGroups {
  int* order;
  MatrixRows* tiles;
  int* num_tiles;
};

/// By a whole block. Rows of one matrix are in order if one warp alone places them (`num_placing`).
__device__ __forceinline__ void group(const Ids& ids, int num_rows, int num_placing, const RowGroups& groups) {
  __shared__ int counts[MATRICES];
  for (int i = threadIdx.x; i < MATRICES; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  each_row(ids, num_rows, blockDim.x, [&](int, int matrix) { take_place(counts, matrix); });
  __syncthreads();
  if (threadIdx.x < 32) {
    const int total = each_matrix(counts, [&](const MatrixRows& rows, int num_tiles) {
      for (int i = 0; i < num_tiles; i++) groups.tiles[rows.first_tile + i] = rows;
      counts[rows.matrix] = rows.first;
    });
    if (threadIdx.x == 0) *groups.num_tiles = total;
    __syncwarp();
  }
  if (num_placing > 32) __syncthreads();
  if (threadIdx.x < num_placing)
    each_row(ids, num_rows, num_placing, [&](int row, int matrix) {
      const int place = take_place(counts, matrix);
      if (matrix >= 0) groups.order[place] = row;
    });
  __syncthreads();
}
