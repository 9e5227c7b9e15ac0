// What the attention kernels share: where a cache row lies, and what becomes of a product of query and key.
#pragma once
#include "common.cuh"

struct ScoreRule {
  float scale;
  float softcap;  // 0: off
  float slope;    // ALiBi; 0: off
  int window;     // tokens looked back at, itself included; 0: all

  __device__ __forceinline__ float operator()(float product, int position, int key) const {
    const int distance = position - key;
    if (distance < 0 || (window > 0 && distance >= window)) return -INFINITY;
    float score = product * scale;
    if (softcap > 0.0f) score = softcap * tanhf(score / softcap);
    return score - slope * distance;
  }

  __device__ __forceinline__ int first_visible(int position) const {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
};

/// First element of a token's row of one head in a cache [numBlocks, numHeads, BLOCK_SIZE, headDim].
__device__ __forceinline__ i64 cache_offset(const int* block_table, int position, int head, int num_heads, int head_dim) {
  const i64 block = block_table[position / BLOCK_SIZE];
  return ((block * num_heads + head) * BLOCK_SIZE + position % BLOCK_SIZE) * head_dim;
}
