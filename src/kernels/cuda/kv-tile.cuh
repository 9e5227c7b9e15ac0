// Where a token's keys and values lie in a cache [numBlocks, numHeads, BLOCK_SIZE / 16]: in tiles of 16 tokens of one head, so
// made that a tile comes to shared memory in one piece and tensor cores read it there without bank conflicts. Behind a tile of
// int8 codes lie its rows' scales, of fp16.
#pragma once
#include "dequantize.cuh"

constexpr int kTileRows = 16;

template <typename T> constexpr int kScaleBytes = 0;
template <> constexpr int kScaleBytes<int8> = 2;

/// Elements that a row of `head_dim` takes, its scale included.
template <typename T> __device__ __forceinline__ constexpr int row_elements(int head_dim) {
  return head_dim + kScaleBytes<T> / int(sizeof(T));
}

/// A tile's columns are cut into panels 128, 64, 32 and 16 bytes wide, [16 rows][width] each: Hopper's tensor cores know
/// them by these widths.
struct Panel { int start, width; };  // bytes of a row

/// The panel that holds byte `at` of rows of `row_bytes`: those of 128, then one for each binary digit of the rest.
__device__ __forceinline__ constexpr Panel panel_of(int at, int row_bytes) {
  int start = row_bytes / 128 * 128, width = 64;
  if (at < start || start == row_bytes) return {at / 128 * 128, 128};
  for (; width > 16 && at >= start + (row_bytes & width); width /= 2) start += row_bytes & width;
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

/// Rows between scales: those of a tile, or of a block that is none.
constexpr int kScaledRows = BLOCK_SIZE % kTileRows == 0 ? kTileRows : BLOCK_SIZE;

/// Rows that tiles cannot hold lie as they are.
__device__ __forceinline__ constexpr bool has_tiles(int row_bytes) {
  return BLOCK_SIZE % kTileRows == 0 && row_bytes % 16 == 0;
}

/// First element of the rows of one head in a block.
template <typename T> __device__ __forceinline__ i64 head_start(i64 block, int head, int num_heads, int head_dim) {
  return (block * num_heads + head) * BLOCK_SIZE * row_elements<T>(head_dim);
}

/// Column d of row `row` among the rows of a head in a block, as an element behind `head_start`.
template <typename T> __device__ __forceinline__ int element_at(int row, int d, int head_dim) {
  const int row_bytes = head_dim * int(sizeof(T)), at = d * int(sizeof(T)), in_tile = row % kScaledRows;
  const int byte = has_tiles(row_bytes) ? tile_byte(in_tile, at, row_bytes) : in_tile * row_bytes + at;
  return row / kScaledRows * kScaledRows * row_elements<T>(head_dim) + byte / int(sizeof(T));
}

/// Where the scale of row `row` lies, likewise behind `head_start`; in blocks of odd sizes at odd addresses.
template <typename T> __device__ __forceinline__ int scale_at(int row, int head_dim) {
  const int tile = row / kScaledRows * kScaledRows;
  return tile * row_elements<T>(head_dim) + kScaledRows * head_dim + row % kScaledRows * kScaleBytes<T>;
}

/// The scale of a row's numbers.
template <typename T> __device__ __forceinline__ float row_scale(const T* rows, int row, int head_dim) {
  if constexpr (kScaleBytes<T> == 0) return 1.0f;
  const u8* bytes = reinterpret_cast<const u8*>(rows + scale_at<T>(row, head_dim));
  return to_float(fp16{u16(bytes[0] | bytes[1] << 8)});
}
