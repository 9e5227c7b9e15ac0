// What every kernel uses: number types with their conversions, 16-byte accesses, reductions. Needs no header of the toolkit,
// so that NVRTC alone can compile it.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

struct bf16 { u16 bits; };
struct fp16 { u16 bits; };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float to_float(fp16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

/// Rounds to nearest even.
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
  // As one of a pair: alone a number goes through a unit of a quarter of the rate.
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
  return {u16(pair)};
}
template <> __device__ __forceinline__ fp16 from_float<fp16>(float x) {
  fp16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

/// Until the launch before this one is done and its writes are seen. A launch that may overlap its predecessor calls this before
/// anything else but reading weights and the step's own arrays, in every block: the launch after it relies on that.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Allows the next launch to start once every block has called this; it waits for this one's end by itself.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// N neighbours, read and written in one access.
template <typename T, int N> struct alignas(sizeof(T) * N) Vec { T at[N]; };

template <int N, typename T> __device__ __forceinline__ Vec<T, N> load(const T* address) {
  return *reinterpret_cast<const Vec<T, N>*>(address);
}
template <int N, typename T> __device__ __forceinline__ void store(T* address, const Vec<T, N>& values) {
  *reinterpret_cast<Vec<T, N>*>(address) = values;
}

/// The same as they come, in whole registers: elements apart would each take one where reading them is conditional.
template <int kBytes> struct RawOf { typedef Vec<u32, kBytes / 4> type; };
template <> struct RawOf<2> { typedef Vec<u16, 1> type; };
template <typename T, int N> struct Packed {
  typename RawOf<sizeof(T) * N>::type raw;

  __device__ __forceinline__ void read(const T* address) { raw = *reinterpret_cast<const decltype(raw)*>(address); }
  __device__ __forceinline__ Vec<T, N> elements() const { return reinterpret_cast<const Vec<T, N>&>(raw); }
  __device__ __forceinline__ void set(const Vec<T, N>& values) { raw = reinterpret_cast<const decltype(raw)&>(values); }
};

struct Sum { __device__ __forceinline__ float operator()(float a, float b) const { return a + b; } };
struct Max { __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); } };

template <typename F> __device__ __forceinline__ float reduce_warp(float value, F f) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value = f(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

/// Over the block, the same for every thread; may be called again and again.
template <typename F> __device__ __forceinline__ float reduce_block(float value, float neutral, F f) {
  __shared__ float partial[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  value = reduce_warp(value, f);
  __syncthreads();
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return reduce_warp(lane < int(blockDim.x + 31) / 32 ? partial[lane] : neutral, f);
}
