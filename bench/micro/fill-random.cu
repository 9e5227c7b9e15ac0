// Random numbers to measure kernels on: zeros are faster than what a model computes.
#include "common.cuh"

/// Random words; of each the bits of `keep` are kept and those of `base` set.
extern "C" __global__ void fill_random(uint4* target, i64 count, u32 keep, u32 base) {
  for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x) {
    u32 words[4];
    u64 state = (i + 1) * 0x9e3779b97f4a7c15ull;
    for (int j = 0; j < 4; j++) {
      state ^= state >> 29;
      state *= 0xbf58476d1ce4e5b9ull;
      words[j] = (u32(state >> 32) & keep) | base;
    }
    target[i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}
