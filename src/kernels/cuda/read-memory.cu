// Reads memory and does nothing with it: the roof of kernels that stream weights or a KV cache. Measured, never part of a plan.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(512) read_memory(const uint4* source, i64 num_pieces, int* sink) {
  constexpr int kUnroll = 8;
  u32 sum = 0;
  const i64 stride = i64(gridDim.x) * blockDim.x * kUnroll;
  for (i64 at = i64(blockIdx.x) * blockDim.x * kUnroll + threadIdx.x; at < num_pieces; at += stride) {
    uint4 pieces[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; i++) {
      const i64 place = at + i64(i) * blockDim.x;
      pieces[i] = place < num_pieces ? source[place] : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kUnroll; i++) sum ^= pieces[i].x ^ pieces[i].y ^ pieces[i].z ^ pieces[i].w;
  }
  // Never true of what is read, but the compiler does not know.
  if (sum == 0x9e3779b9u && num_pieces < 0) *sink = int(sum);
}
