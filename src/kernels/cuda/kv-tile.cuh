// Where a token's keys and values lie in a cache [numBlocks, numHeads, BLOCK_SIZE / 16]: in tiles of 16 tokens of one head, so
// made that a tile comes to shared memory in one piece and tensor cores read it there without bank conflicts.
#pragma once
#include "common.cuh"

constexpr int kTileRows = 16;

/// A tile's columns are cut into panels 128, 64, 32 and 16 bytes wide, [16 rows][width] each: Hopper's tensor cores know
/// them by these widths.
struct Panel { int start, width; };  // bytes of a row

/// The panel that holds byte `at` of rows of `row_bytes`.
__device__ __forceinline__ constexpr Panel panel_of(int at, int row_bytes) {
  int start = at / 128 * 128, width = 128;
  while (width > row_bytes - start || at - start >= width) {
    if (width <= row_bytes - start) start += width;
    width /= 2;
  }
  return {start, width};
}

/// Byte of a tile where byte `at` of a row lies. In a panel the 16-byte pieces of a row are exchanged so that the same piece
/// of eight rows lies in different banks.
__device__ __forceinline__ constexpr int tile_byte(int row, int at, int row_bytes) {
  const Panel panel = panel_of(at, row_bytes);
  const int piece = (at - panel.start) / 16 ^ row % 8 * panel.width / 128;
  return panel.start * kTileRows + row * panel.width + piece * 16 + at % 16;
}

/// The same for the start of one of two pieces, of which the first lies `at` a multiple of 32 known when compiling. A second
/// piece behind the row's end is given as the first.
__device__ __forceinline__ constexpr int tile_piece(int row, int at, int second, int row_bytes) {
  const Panel panel = panel_of(at, row_bytes);
  const int piece = panel.width == 16 ? 0 : (at - panel.start) / 16 | second;
  return panel.start * kTileRows + row * panel.width + (piece ^ row % 8 * panel.width / 128) * 16;
}

/// Rows that tiles cannot hold lie as they are.
__device__ __forceinline__ constexpr bool has_tiles(int row_bytes) {
  return BLOCK_SIZE % kTileRows == 0 && row_bytes % 16 == 0;
}

/// First element of the rows of one head in a block.
__device__ __forceinline__ i64 head_start(i64 block, int head, int num_heads, int head_dim) {
  return (block * num_heads + head) * BLOCK_SIZE * head_dim;
}

/// Column d of row `row` among the rows of a head in a block, as an element behind `head_start`.
template <typename T> __device__ __forceinline__ int element_at(int row, int d, int head_dim) {
  const int row_bytes = head_dim * int(sizeof(T));
  if (!has_tiles(row_bytes)) return row * head_dim + d;
  const int byte = tile_byte(row % kTileRows, d * int(sizeof(T)), row_bytes);
  return row / kTileRows * kTileRows * head_dim + byte / int(sizeof(T));
}
