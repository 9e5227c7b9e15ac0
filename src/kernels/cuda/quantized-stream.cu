// weightOnlyLinear and quantizedLinear for few rows: weights stream through shared memory once, at the memory's speed, and
// become numbers in registers on their way into tensor cores. A block makes tiles of 16 · ROW_TILES outputs of 8 · X_TILES rows
// of x, one after the other; its warps divide the inputs, 128 bytes of every row at a time. No warp waits for another, and copies
// run ahead into the next tile while one is summed up.
// X: type of x, codes or 16-bit; CODES: of the weight; Y: of the output, BIAS: of the bias; STAGES: pieces on their way per warp;
// GROUP_HALVES: halves of a piece that share a scale, 0: the whole row does; HAS_ZEROS: 1 if scales are pairs (scale, zero).
#include "quantized-tile.cuh"

typedef Tile<CODES, X> T;
constexpr int kWarps = 8, kPieceBytes = 128, kChunks = kPieceBytes / 16, kPiece = 2 * T::kPiece;
constexpr int kOutputs = 16 * ROW_TILES, kRows = 8 * X_TILES;
#if GROUP_HALVES
constexpr int kGroups = GROUP_HALVES == 1 ? 2 : 1;  // of a piece
#endif

struct Stage {
  uint4 weight[kOutputs][kChunks];
#if GROUP_HALVES
  Vec<float, 1 + HAS_ZEROS> scales[kGroups][kOutputs];
#endif
};

struct Memory {
  Stage stages[kWarps][STAGES];
  T::Sum sums[kWarps][kRows][kOutputs + 4];
};

/// Where a chunk of a row lies, so that eight lanes that read four chunks of two rows meet different banks.
__device__ __forceinline__ int swizzled(int row, int chunk) { return chunk ^ (row % 2 * 4); }

/// kBytes (4 or 8) to shared memory beside the computation.
template <int kBytes> __device__ __forceinline__ void copy_few_async(void* target, const void* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(target)), "l"(source), "n"(kBytes)
               : "memory");
}

/// A lane's share of 8 rows of x, zeros beyond the last.
__device__ __forceinline__ void read_x(const X* at, bool is_row, u32 (&x)[2 * T::kSteps]) {
  u32 words[T::kXWords];
#pragma unroll
  for (int i = 0; i < T::kXWords / 4; i++) {
    const uint4 v = is_row ? reinterpret_cast<const uint4*>(at)[i] : make_uint4(0, 0, 0, 0);
    words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
  }
  T::expand(words, x);
}

/// A warp's way through the pieces of the block's tiles.
struct Fetcher {
  const u8* weight;
  const float* scales;
  i64 row_bytes;
  int num_pieces, outputs, last_tile;
  int tile, piece;

  __device__ __forceinline__ void enter_tile() {
    piece = threadIdx.x / 32;
    if (piece >= num_pieces) tile = last_tile;
  }

  __device__ __forceinline__ void next(Stage& stage) {
    if (tile < last_tile) {
      const int lane = threadIdx.x % 32, row = lane / kChunks, chunk = lane % kChunks;
#pragma unroll
      for (int i = 0; i < kOutputs / 4; i++)
        copy_async(&stage.weight[4 * i + row][swizzled(row, chunk)],
                   weight + min(tile * kOutputs + 4 * i + row, outputs - 1) * row_bytes + piece * kPieceBytes + chunk * 16, true);
#if GROUP_HALVES
      const int groups_per_row = 2 * num_pieces / GROUP_HALVES;
#pragma unroll
      for (int i = lane; i < kOutputs * kGroups; i += 32) {
        const i64 group = i64(min(tile * kOutputs + i % kOutputs, outputs - 1)) * groups_per_row + 2 * piece / GROUP_HALVES;
        copy_few_async<4 + 4 * HAS_ZEROS>(&stage.scales[0][i], scales + (group + i / kOutputs) * (1 + HAS_ZEROS));
      }
#endif
      piece += kWarps;
      if (piece >= num_pieces) tile++, enter_tile();
    }
    commit_copies();
  }
};

extern "C" __global__ void __launch_bounds__(kWarps * 32, MIN_BLOCKS)
    quantized_stream(const int* num_rows, const X* x, i64 x_stride, const float* x_scales, i64 x_scales_stride,
                     const u8* weight, const float* scales, const BIAS* bias, Y* y, i64 y_stride, int inputs, int outputs,
                     int tiles_per_block) {
  extern __shared__ __align__(16) u8 shared[];
  Memory& memory = *reinterpret_cast<Memory*>(shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const int num_pieces = inputs / kPiece, first_row = blockIdx.y * kRows, rows = *num_rows - first_row;
  if (rows <= 0) return wait_for_previous();
  Stage* stages = memory.stages[warp];
  const int first_tile = blockIdx.x * tiles_per_block;
  const int last_tile = min(first_tile + tiles_per_block, (outputs + kOutputs - 1) / kOutputs);
  Fetcher fetcher{weight, scales, i64(num_pieces) * kPieceBytes, num_pieces, outputs, last_tile, first_tile};
  fetcher.enter_tile();
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) fetcher.next(stages[s]);
  let_next_start();
  wait_for_previous();
  x += first_row * x_stride;
  y += first_row * y_stride;

  int slot = 0, next_slot = STAGES - 1;
  for (int tile_at = first_tile; tile_at < last_tile; tile_at++) {
    T::Sum sum[ROW_TILES][X_TILES][4] = {};
    for (int piece = warp; piece < num_pieces; piece += kWarps) {
      fetcher.next(stages[next_slot]);
      wait_copies<STAGES - 1>();
      __syncwarp();  // Other lanes' copies as well.
      const Stage& stage = stages[slot];
      next_slot = slot;
      slot = slot == STAGES - 1 ? 0 : slot + 1;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 from_x[X_TILES][2 * T::kSteps];
#pragma unroll
        for (int n = 0; n < X_TILES; n++)
          read_x(x + (8 * n + g) * x_stride + piece * kPiece + half * T::kPiece + c * (T::kPiece / 4), 8 * n + g < rows, from_x[n]);
#if GROUP_HALVES
        // Sums of x, in the layout of the products' sums: what offsets and zeros are multiplied with.
        float x_sum[X_TILES][4] = {};
        if (HAS_ZEROS || T::kOffset != 0.0f) {
          const u32 one = pack<X>(1.0f, 1.0f), ones[4] = {one, one, one, one};
#pragma unroll
          for (int n = 0; n < X_TILES; n++)
#pragma unroll
            for (int i = 0; i < T::kSteps; i++) T::multiply(x_sum[n], ones, from_x[n][2 * i], from_x[n][2 * i + 1]);
        }
#endif
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) {
          const int chunk = swizzled(g, 4 * half + c);
          const uint4 low = stage.weight[16 * t + g][chunk], high = stage.weight[16 * t + g + 8][chunk];
          const T tile({low.x, low.y, low.z, low.w}, {high.x, high.y, high.z, high.w});
#pragma unroll
          for (int n = 0; n < X_TILES; n++) {
#if GROUP_HALVES
            float part[4] = {};
#else
            T::Sum(&part)[4] = sum[t][n];
#endif
#pragma unroll
            for (int i = 0; i < T::kSteps; i++) T::multiply(part, tile.a[i], from_x[n][2 * i], from_x[n][2 * i + 1]);
#if GROUP_HALVES
#pragma unroll
            for (int j = 0; j < 4; j++) {
              const auto of_row = stage.scales[half % kGroups][16 * t + g + j / 2 * 8];
              const float zero = T::kOffset + (HAS_ZEROS ? of_row.at[HAS_ZEROS] : T::kMiddle);
              sum[t][n][j] += of_row.at[0] * (part[j] - zero * x_sum[n][j]);
            }
#endif
          }
        }
      }
      __syncwarp();  // Before it is overwritten.
    }

    if (tile_at > first_tile) __syncthreads();  // The sums of the tile before are read.
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
      for (int n = 0; n < X_TILES; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) memory.sums[warp][8 * n + 2 * c + j % 2][16 * t + g + j / 2 * 8] = sum[t][n][j];
    __syncthreads();
    for (int i = threadIdx.x; i < kOutputs * min(rows, kRows); i += kWarps * 32) {
      const int at = i % kOutputs, row = i / kOutputs, output = tile_at * kOutputs + at;
      if (output >= outputs) continue;
      T::Sum total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; w++) total += memory.sums[w][row][at];
      float value = float(total);
      if (!GROUP_HALVES) value *= scales[output];
      if (x_scales) value *= x_scales[(first_row + row) * x_scales_stride];
      if (bias) value += to_float(bias[output]);
      y[row * y_stride + output] = from_float<Y>(value);
    }
  }
}
