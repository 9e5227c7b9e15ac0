// linear whose rows come out the same, bit for bit, whatever stands beside them: each output is one chain of tensor-core
// products over rising inputs, in every shape of tile. A block makes 16 · OUTPUT_TILES · OUTPUT_WARPS outputs of
// 8 · ROW_TILES · ROW_WARPS rows. X: 16-bit type of x and weight, W: of the bias, Y: of the output, STAGES: pieces of inputs in
// shared memory. The inputs' number is a multiple of 8.
#include "mma.cuh"

constexpr int kDepth = 64, kStride = kDepth + 8;  // padded against bank conflicts
constexpr int kOutputs = 16 * OUTPUT_TILES * OUTPUT_WARPS, kRows = 8 * ROW_TILES * ROW_WARPS;
constexpr int kThreads = 32 * OUTPUT_WARPS * ROW_WARPS;

/// `count` rows of kDepth elements from column `k` on, zeros where there is nothing.
template <int kCount>
__device__ __forceinline__ void copy_piece(X* target, const X* source, i64 stride, int first, int end, int k, int inputs) {
  constexpr int kChunks = kDepth / 8;
#pragma unroll
  for (int i = threadIdx.x; i < kCount * kChunks; i += kThreads) {
    const int row = i / kChunks, column = k + i % kChunks * 8;
    const bool is_valid = first + row < end && column < inputs;
    copy_async(target + row * kStride + i % kChunks * 8, is_valid ? source + i64(first + row) * stride + column : source,
               is_valid);
  }
}

/// Grid [output tiles, row tiles].
extern "C" __global__ void __launch_bounds__(kThreads)
    linear_invariant(const int* num_rows, const X* x, i64 x_stride, const X* weight, const W* bias, Y* y, i64 y_stride,
                     int inputs, int outputs) {
  extern __shared__ __align__(16) u8 memory[];
  const int rows = *num_rows, first_row = blockIdx.y * kRows, first_output = blockIdx.x * kOutputs;
  if (first_row >= rows) return;
  X* weight_tiles = reinterpret_cast<X*>(memory);                  // [STAGES][kOutputs][kStride]
  X* x_tiles = weight_tiles + STAGES * kOutputs * kStride;         // [STAGES][kRows][kStride]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_output = warp % OUTPUT_WARPS * 16 * OUTPUT_TILES, warp_row = warp / OUTPUT_WARPS * 8 * ROW_TILES;

  const int num_pieces = (inputs + kDepth - 1) / kDepth;
  const auto copy = [&](int piece) {
    if (piece < num_pieces) {
      const int stage = piece % STAGES, k = piece * kDepth;
      copy_piece<kOutputs>(weight_tiles + stage * kOutputs * kStride, weight, inputs, first_output, outputs, k, inputs);
      copy_piece<kRows>(x_tiles + stage * kRows * kStride, x, x_stride, first_row, rows, k, inputs);
    }
    commit_copies();
  };

  float sum[OUTPUT_TILES][ROW_TILES][4] = {};
  for (int piece = 0; piece < STAGES - 1; piece++) copy(piece);
  for (int piece = 0; piece < num_pieces; piece++) {
    wait_copies<STAGES - 2>();
    __syncthreads();
    copy(piece + STAGES - 1);
    const X* a_tile = weight_tiles + (piece % STAGES * kOutputs + warp_output + lane % 16) * kStride + lane / 16 * 8;
    const X* b_tile = x_tiles + (piece % STAGES * kRows + warp_row + lane % 8) * kStride + lane / 8 * 8;
#pragma unroll
    for (int k = 0; k < kDepth; k += 32) {
      u32 b[ROW_TILES][4];
#pragma unroll
      for (int n = 0; n < ROW_TILES; n++) load_tiles(b[n], b_tile + n * 8 * kStride + k);
#pragma unroll
      for (int t = 0; t < OUTPUT_TILES; t++) {
        u32 a[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++) load_tiles(a[half], a_tile + t * 16 * kStride + k + 16 * half);
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
          for (int n = 0; n < ROW_TILES; n++) mma<X>(sum[t][n], a[half], b[n][2 * half], b[n][2 * half + 1]);
      }
    }
  }

  const int g = lane / 4, c = lane % 4;
#pragma unroll
  for (int t = 0; t < OUTPUT_TILES; t++)
#pragma unroll
    for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int output = first_output + warp_output + 16 * t + g + j / 2 * 8;
        const int row = first_row + warp_row + 8 * n + 2 * c + j % 2;
        if (row >= rows || output >= outputs) continue;
        y[row * y_stride + output] = from_float<Y>(sum[t][n][j] + (bias ? to_float(bias[output]) : 0.0f));
      }
}
