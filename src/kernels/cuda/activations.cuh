// Functions of one number.
#pragma once
#include "common.cuh"

/// Unary functions take two numbers of their op's attributes.
__device__ __forceinline__ float scale(float x, float factor, float) { return x * factor; }
__device__ __forceinline__ float clamp(float x, float low, float high) {
  return x != x ? x : fminf(fmaxf(x, low), high);
}
__device__ __forceinline__ float softcap(float x, float cap, float) { return cap * tanhf(x / cap); }
// Of the fast functions: off by a few of float32's last places.
__device__ __forceinline__ float silu(float x, float, float) { return __fdividef(x, 1.0f + __expf(-x)); }
__device__ __forceinline__ float gelu(float x, float, float) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
__device__ __forceinline__ float geluTanh(float x, float, float) {
  return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}
__device__ __forceinline__ float relu(float x, float, float) { return x != x ? x : fmaxf(x, 0.0f); }
__device__ __forceinline__ float reluSquared(float x, float, float) { return x != x ? x : fmaxf(x, 0.0f) * fmaxf(x, 0.0f); }
__device__ __forceinline__ float quickGelu(float x, float, float) { return x / (1.0f + expf(-1.702f * x)); }
__device__ __forceinline__ float sigmoid(float x, float, float) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float tanh(float x, float, float) { return tanhf(x); }
