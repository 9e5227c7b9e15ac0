// linear for few rows: weights stream through registers once, 16 bytes per access, into tensor cores. A block makes
// 16 · ROW_TILES outputs of up to 8 · X_TILES rows of x; its warps divide the inputs. X: 16-bit type of x and weight, Y: of the
// output, UNROLL: pieces of 32 inputs in flight. The inputs' number is a multiple of 32.
//
// The sum over inputs may go in any order, so a lane's 16 bytes, eight neighbours, serve as its share of two products:
// lane 4g + c holds inputs 8c to 8c + 7 of each piece, of weight rows g and g + 8 and of row g of x.
#include "mma.cuh"

constexpr int kWarps = 8, kPiece = 32;
constexpr int kOutputs = 16 * ROW_TILES, kRows = 8 * X_TILES;

extern "C" __global__ void __launch_bounds__(kWarps * 32)
    linear_stream(const int* num_rows, const X* x, i64 x_stride, const X* weight, const X* bias, Y* y, i64 y_stride,
                  int inputs, int outputs) {
  __shared__ float sums[kWarps][kOutputs][kRows + 1];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const int first = blockIdx.x * kOutputs, rows = *num_rows;
  const X* weight_rows[ROW_TILES][2];
#pragma unroll
  for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      weight_rows[t][half] = weight + i64(min(first + 16 * t + 8 * half + g, outputs - 1)) * inputs + 8 * c;
  const X* x_row = x + g * x_stride + 8 * c;

  float sum[ROW_TILES][X_TILES][4] = {};
  for (int k0 = warp * kPiece * UNROLL; k0 < inputs; k0 += kWarps * kPiece * UNROLL) {
    uint4 a[UNROLL][ROW_TILES][2], b[UNROLL][X_TILES];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      // Past the end the last piece is read again, and counts nothing since x is 0 there.
      const int k = k0 + u * kPiece, weight_k = min(k, inputs - kPiece);
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) a[u][t][half] = load_streaming(weight_rows[t][half] + weight_k);
#pragma unroll
      for (int n = 0; n < X_TILES; n++)
        b[u][n] = k < inputs && 8 * n + g < rows ? *reinterpret_cast<const uint4*>(x_row + 8 * n * x_stride + k)
                                                 : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++) {
        const uint4 low = a[u][t][0], high = a[u][t][1];
        const u32 a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int n = 0; n < X_TILES; n++) {
          mma<X>(sum[t][n], a0, b[u][n].x, b[u][n].y);
          mma<X>(sum[t][n], a1, b[u][n].z, b[u][n].w);
        }
      }
  }

#pragma unroll
  for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
    for (int n = 0; n < X_TILES; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) sums[warp][16 * t + g + j / 2 * 8][8 * n + 2 * c + j % 2] = sum[t][n][j];
  __syncthreads();
  for (int i = threadIdx.x; i < kOutputs * kRows; i += kWarps * 32) {
    const int output = i % kOutputs, row = i / kOutputs;
    if (row >= rows || first + output >= outputs) continue;
    float total = bias ? to_float(bias[first + output]) : 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) total += sums[w][output][row];
    y[row * y_stride + first + output] = from_float<Y>(total);
  }
}
