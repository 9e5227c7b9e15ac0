// The one row x of linear-row.cu: made by every block for itself of what the launch before has left, and kept in shared memory as
// tensor cores want it.
#pragma once
#include "barrier.cuh"
#include "quantize.cuh"
#include "quantized-tile.cuh"
#include "activations.cuh"
#ifdef GATE
constexpr bool kMakesX = true;
#else
constexpr bool kMakesX = NORM || QUANTIZE == 1;
#endif

/// As what x is kept. Integer codes are multiplied as they are: numbers become integers of 24 bits under one scale, more than
/// either 16-bit type resolves, and their three bytes are columns of the products.
template <typename Codes, typename X> struct Kept {
  typedef X Type;
  static constexpr int kPlanes = 1, kPad = 0;
};
template <> struct Kept<e4m3, e4m3> {
  typedef fp16 Type;
  static constexpr int kPlanes = 1, kPad = 0;
};
template <> struct Kept<int8, int8> {
  typedef int8 Type;
  static constexpr int kPlanes = 1, kPad = 0;
};
// Pads keep what eight lanes read of two planes in different banks.
template <typename X> struct Kept<int8, X> {
  typedef int8 Type;
  static constexpr int kPlanes = 3, kPad = 64;
};
template <typename X> struct Kept<uint4_codes, X> {
  typedef int8 Type;
  static constexpr int kPlanes = 3, kPad = 16;
};

typedef Kept<CODES, X>::Type K;
typedef Tile<CODES, K> T;
constexpr int kPlanes = Kept<CODES, X>::kPlanes, kPlanePad = Kept<CODES, X>::kPad;
constexpr float kLargestInteger = 127.0f * 65536.0f;
constexpr int kReaders = 8, kVec = 8;

__device__ __forceinline__ void wait_for_readers() { asm volatile("bar.sync 1, %0;" ::"n"(kReaders * 32) : "memory"); }

/// Of numbers not below 0, over the readers. Every reduction has a `place` of its own.
template <int place, typename F> __device__ __forceinline__ float reduce_readers(float value, F f) {
  __shared__ float partial[kReaders];
  value = reduce_warp(value, f);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  wait_for_readers();
  return reduce_warp(threadIdx.x % 32 < kReaders ? partial[threadIdx.x % 32] : 0.0f, f);
}

/// Bytes `n` of four words.
__device__ __forceinline__ u32 gather_bytes(u32 a, u32 b, u32 c, u32 d, int n) {
  const u32 selector = (4 + n) << 4 | n;
  return __byte_perm(__byte_perm(a, b, selector), __byte_perm(c, d, selector), 0x5410);
}

struct KeptX {
  K* x;              // [kPlanes][inputs + kPlanePad], the highest bytes first
  float* half_sums;  // if GROUPED: of each 64 bytes of codes, in units of the highest plane
  int inputs;

  __device__ __forceinline__ const K* plane(int i) const { return x + i * (inputs + kPlanePad); }

  __device__ __forceinline__ void put(int at, const Vec<K, kVec>& values) const { store<kVec>(x + at, values); }

  /// float8 codes, as 16-bit numbers.
  __device__ __forceinline__ void put(int at, const Vec<e4m3, kVec>& codes) const {
    const uint2 words = *reinterpret_cast<const uint2*>(&codes);
    uint4 numbers;
    pairs<e4m3, fp16>(words.x, numbers.x, numbers.y);
    pairs<e4m3, fp16>(words.y, numbers.z, numbers.w);
    *reinterpret_cast<uint4*>(x + at) = numbers;
  }

  /// Integers; whole warps call it if GROUPED.
  __device__ __forceinline__ void put(int at, const int (&integers)[kVec]) const {
    u32 bytes[kVec];
#pragma unroll
    for (int j = 0; j < kVec; j++) bytes[j] = u32(integers[j] + 0x808080) ^ 0x808080;  // their signed bytes
#pragma unroll
    for (int i = 0; i < kPlanes; i++) {
      const int n = kPlanes - 1 - i;
      // 4-bit codes: the columns of a word's lower halves of bytes, then those of the upper ones.
      const uint2 words = GROUPED ? make_uint2(gather_bytes(bytes[0], bytes[4], bytes[1], bytes[5], n),
                                               gather_bytes(bytes[2], bytes[6], bytes[3], bytes[7], n))
                                  : make_uint2(gather_bytes(bytes[0], bytes[1], bytes[2], bytes[3], n),
                                               gather_bytes(bytes[4], bytes[5], bytes[6], bytes[7], n));
      *reinterpret_cast<uint2*>(x + i * (inputs + kPlanePad) + at) = words;
    }
#if GROUPED
    int sum = 0;
#pragma unroll
    for (int j = 0; j < kVec; j++) sum += integers[j];
    constexpr int kLanes = T::kPiece / kVec;
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (at / kVec % kLanes == 0) half_sums[at / T::kPiece] = float(sum) * (1.0f / 65536.0f);
#endif
  }
};

/// What x is made of, of type A, and where it goes besides: `residual`, `sum`, `gain` are those of a norm; `made` and `scale`
/// are written by the first block, or read if x is there already.
struct Source {
  const A* x;
  const A* residual;
  A* sum;
  const W* gain;
  float eps, gain_offset;
  X* made;
  float* scale;
  int inputs;

  /// Calls f(piece, first column) for each of this thread's pieces, or for some of them.
  template <int kFirst = 0, int kEnd = PIECES, typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int piece = kFirst; piece < kEnd; piece++) {
      const int i = (piece * kReaders * 32 + threadIdx.x) * kVec;
      if (i < inputs) f(piece, i);
    }
  }

  template <int place> __device__ __forceinline__ float largest_of(const Vec<A, kVec> (&values)[PIECES]) const {
    float absmax = 0.0f;
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++) absmax = MaxMagnitude()(absmax, fabsf(to_float(values[piece].at[j])));
    });
    return reduce_readers<place>(absmax, MaxMagnitude());
  }

  /// values = f(values, others). Others are asked for together, as many as registers hold: one by one each would wait for memory.
  template <int kFirst = 0, typename F>
  __device__ __forceinline__ void combine(Vec<A, kVec> (&values)[PIECES], const A* others, F f) const {
    constexpr int kTogether = 8, kEnd = kFirst + kTogether < PIECES ? kFirst + kTogether : PIECES;
    Vec<A, kVec> asked[kEnd - kFirst];
    each<kFirst, kEnd>([&](int piece, int i) { asked[piece - kFirst] = load<kVec>(others + i); });
    each<kFirst, kEnd>([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++)
        values[piece].at[j] = from_float<A>(f(to_float(values[piece].at[j]), to_float(asked[piece - kFirst].at[j])));
    });
    if constexpr (kEnd < PIECES) combine<kEnd>(values, others, f);
  }

  /// Waits for the previous launch; the row as it is multiplied, before rounding to codes.
  __device__ __forceinline__ void read(Vec<A, kVec> (&values)[PIECES]) const {
#if NORM
    Vec<W, kVec> gains[PIECES];
    each([&](int piece, int i) { gains[piece] = load<kVec>(gain + i); });
#endif
    wait_for_previous();
    each([&](int piece, int i) { values[piece] = load<kVec>(x + i); });
#if NORM == 2
    combine(values, residual, Sum());
    // After all has been read, which a store between would hold up.
    if (blockIdx.x == 0) each([&](int piece, int i) { store<kVec>(sum + i, values[piece]); });
#endif
#ifdef GATE
    combine(values, x + inputs, [](float gate, float up) { return GATE(gate, 0.0f, 0.0f) * up; });
#endif
#if NORM
    float squares = 0.0f;
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++) squares += to_float(values[piece].at[j]) * to_float(values[piece].at[j]);
    });
    const float factor = rsqrtf(reduce_readers<0>(squares, Sum()) / inputs + eps);
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++)
        values[piece].at[j] =
            from_float<A>(to_float(values[piece].at[j]) * factor * (to_float(gains[piece].at[j]) + gain_offset));
    });
#endif
  }

  /// Waits for the previous launch; returns what products are to be multiplied with.
  __device__ __forceinline__ float keep(const KeptX& kept) const {
    [[maybe_unused]] const bool writes = kMakesX && blockIdx.x == 0;
#if QUANTIZE == 2  // x is of codes already
    wait_for_previous();
    for (int i = threadIdx.x * kVec; i < inputs; i += kReaders * 32 * kVec) kept.put(i, load<kVec>(made + i));
    return *scale;
#else
    Vec<A, kVec> values[PIECES];
    read(values);
#if QUANTIZE
    const float factor = scale_of<X>(largest_of<1>(values));
    if (writes && threadIdx.x == 0) *scale = factor;
    each([&](int piece, int i) {
      Vec<X, kVec> codes;
#pragma unroll
      for (int j = 0; j < kVec; j++) codes.at[j] = encode<X>(to_float(values[piece].at[j]) / factor);
      if (writes) store<kVec>(made + i, codes);
      kept.put(i, codes);
    });
    return factor;
#else
    each([&](int piece, int i) {
      if (writes) store<kVec>(made + i, values[piece]);
    });
    if constexpr (kPlanes == 1) {
      each([&](int piece, int i) { kept.put(i, reinterpret_cast<const Vec<K, kVec>&>(values[piece])); });
      return 1.0f;
    } else {
      const float absmax = largest_of<1>(values), factor = absmax > 1e-30f ? kLargestInteger / absmax : 0.0f;
      each([&](int piece, int i) {
        int integers[kVec];
#pragma unroll
        for (int j = 0; j < kVec; j++) integers[j] = __float2int_rn(to_float(values[piece].at[j]) * factor);
        kept.put(i, integers);
      });
      return absmax / kLargestInteger;
    }
#endif
#endif
  }
};
