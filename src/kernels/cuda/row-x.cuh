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
constexpr int kVec = 8, kAtomInputs = 2 * T::kPiece;
/// Readers of the weights come in teams, which take tiles in turns. Member m of each multiplies every kMembers-th atom of 128 bytes
/// of codes from m on; the members m of all teams make that part of x.
constexpr int kTeams = TEAMS, kMembers = 8, kReaders = kTeams * kMembers;
/// Whether what a norm divides by is found while products are made: integers have a scale of their own, whatever the row's.
constexpr bool kDefersNorm = NORM && kPlanes > 1;

/// What readers tell each other.
struct Board {
  float squares[kReaders], largest[kReaders];
  u64 squares_there;

  /// One thread, before a barrier of the block.
  __device__ __forceinline__ void init() { init_barrier(&squares_there, kReaders); }
};

template <int kId> __device__ __forceinline__ void sync_readers() {
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "n"(kReaders * 32) : "memory");
}
__device__ __forceinline__ void sync_team(int team) {
  asm volatile("bar.sync %0, %1;" ::"r"(2 + team), "n"(kMembers * 32) : "memory");
}
__device__ __forceinline__ void sync_members(int member) {
  asm volatile("bar.sync %0, %1;" ::"r"(2 + kTeams + member), "n"(kTeams * 32) : "memory");
}

__device__ __forceinline__ float largest_in_warp(float magnitude) {
  return __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(magnitude)));
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
    static_assert(T::kPiece == 16 * kVec, "half a warp's");
    const bool is_upper = threadIdx.x % 32 >= 16;
    const int lower_sum = __reduce_add_sync(0xffffffffu, is_upper ? 0 : sum);
    const int upper_sum = __reduce_add_sync(0xffffffffu, is_upper ? sum : 0);
    if (threadIdx.x % 16 == 0) half_sums[at / T::kPiece] = float(is_upper ? upper_sum : lower_sum) * (1.0f / 65536.0f);
#endif
  }
};

/// What a thread has of the row, as A.
constexpr int kOwn = (PIECES + kTeams - 1) / kTeams;
struct RowPart {
  Vec<A, kVec> values[kOwn];
#if NORM
  Vec<W, kVec> gains[kOwn];
#endif
};

/// What x is made of, of type A, and where it goes besides: `residual`, `sum`, `gain` are those of a norm; `made` and `scale`
/// are written by the last block, which has least to do, or read if x is there already. `known_scale`: of codes whose scale is known
/// beforehand, if `has_scale`.
struct Source {
  const A* x;
  const A* residual;
  A* sum;
  const W* gain;
  float eps, gain_offset;
  X* made;
  float* scale;
  bool has_scale;
  float known_scale;
  int inputs;
  Board& board;

  __device__ __forceinline__ bool writes() const { return blockIdx.x == gridDim.x - 1; }

  /// Calls f(piece, first column) for each of this thread's pieces, or for some of them.
  template <int kFirst = 0, int kEnd = kOwn, typename F> __device__ __forceinline__ void each(F f) const {
    constexpr int kLanes = kAtomInputs / kVec, kAtoms = 32 / kLanes;
    const int lane = threadIdx.x % 32, member = threadIdx.x / 32 % kMembers, team = threadIdx.x / 32 / kMembers;
#pragma unroll
    for (int piece = kFirst; piece < kEnd; piece++) {
      const int atom = ((piece * kTeams + team) * kAtoms + lane / kLanes) * kMembers + member;
      const int i = atom * kAtomInputs + lane % kLanes * kVec;
      if (i < inputs) f(piece, i);
    }
  }

  /// Waits for the previous launch.
  __device__ __forceinline__ void read(RowPart& row) const {
#if NORM
    each([&](int piece, int i) { row.gains[piece] = load<kVec>(gain + i); });
#endif
    wait_for_previous();
    each([&](int piece, int i) { row.values[piece] = load<kVec>(x + i); });
#if NORM == 2
    combine(row, residual, Sum());
    // After all has been read, which a store between would hold up.
    if (writes()) each([&](int piece, int i) { store<kVec>(sum + i, row.values[piece]); });
#endif
#ifdef GATE
    combine(row, x + inputs, [](float gate, float up) { return GATE(gate, 0.0f, 0.0f) * up; });
#endif
  }

  /// values = f(values, others). Others are asked for together, as many as registers hold: one by one each would wait for memory.
  template <int kFirst = 0, typename F>
  __device__ __forceinline__ void combine(RowPart& row, const A* others, F f) const {
    constexpr int kTogether = 8, kEnd = kFirst + kTogether < kOwn ? kFirst + kTogether : kOwn;
    Vec<A, kVec> asked[kEnd - kFirst];
    each<kFirst, kEnd>([&](int piece, int i) { asked[piece - kFirst] = load<kVec>(others + i); });
    each<kFirst, kEnd>([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++)
        row.values[piece].at[j] =
            from_float<A>(f(to_float(row.values[piece].at[j]), to_float(asked[piece - kFirst].at[j])));
    });
    if constexpr (kEnd < kOwn) combine<kEnd>(row, others, f);
  }

  /// A number as it is multiplied; a norm's factor may be missing.
  __device__ __forceinline__ float number(const RowPart& row, int piece, int j) const {
#if NORM
    if (kDefersNorm) return to_float(row.values[piece].at[j]) * (to_float(row.gains[piece].at[j]) + gain_offset);
#endif
    return to_float(row.values[piece].at[j]);
  }

  /// Leaves the largest of a warp's numbers on the board.
  __device__ __forceinline__ void leave_largest(const RowPart& row) const {
    float absmax = 0.0f;
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++) absmax = MaxMagnitude()(absmax, fabsf(number(row, piece, j)));
    });
    absmax = largest_in_warp(absmax);
    if (threadIdx.x % 32 == 0) board.largest[threadIdx.x / 32] = absmax;
  }

#if QUANTIZE
  /// The same in all readers.
  __device__ __forceinline__ float largest_of_all(const RowPart& row) const {
    leave_largest(row);
    sync_readers<1>();
    float absmax = 0.0f;
#pragma unroll
    for (int i = 0; i < kReaders; i++) absmax = MaxMagnitude()(absmax, board.largest[i]);
    return absmax;
  }
#endif

#if NORM
  /// Leaves a warp's sum of squares on the board.
  __device__ __forceinline__ void add_squares(const RowPart& row) const {
    float squares = 0.0f;
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++) squares += to_float(row.values[piece].at[j]) * to_float(row.values[piece].at[j]);
    });
    squares = reduce_warp(squares, Sum());
    if (threadIdx.x % 32 != 0) return;
    board.squares[threadIdx.x / 32] = squares;
    arrive(&board.squares_there);
  }

  /// What the row is multiplied with, once all readers have added their squares.
  __device__ __forceinline__ float norm_factor() const {
    wait_barrier(&board.squares_there, 0);
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kReaders; i++) squares += board.squares[i];
    return rsqrtf(squares / inputs + eps);
  }

  __device__ __forceinline__ void normalize(RowPart& row, float factor) const {
    each([&](int piece, int) {
#pragma unroll
      for (int j = 0; j < kVec; j++)
        row.values[piece].at[j] = from_float<A>(to_float(row.values[piece].at[j]) * factor *
                                                (to_float(row.gains[piece].at[j]) + gain_offset));
    });
  }
#endif

#if !QUANTIZE
  /// By one block, unless others have made it.
  __device__ __forceinline__ void write_made(const RowPart& row) const {
    if (kMakesX && writes()) each([&](int piece, int i) { store<kVec>(made + i, row.values[piece]); });
  }
#endif

  /// Waits for the previous launch; returns what the products of this warp's part are to be multiplied with.
  __device__ __forceinline__ float keep(const KeptX& kept, RowPart& row) const {
#if QUANTIZE == 2  // x is of codes already
    wait_for_previous();
    each([&](int, int i) { kept.put(i, load<kVec>(made + i)); });
    return *scale;
#else
    read(row);
#if NORM
    if (!kDefersNorm) {
      add_squares(row);
      normalize(row, norm_factor());
    }
#endif
#if QUANTIZE
    const float factor = has_scale ? known_scale : scale_of<X>(largest_of_all(row));
    if (writes() && threadIdx.x == 0) *scale = factor;
    each([&](int piece, int i) {
      Vec<X, kVec> codes;
#pragma unroll
      for (int j = 0; j < kVec; j++) codes.at[j] = encode<X>(number(row, piece, j) / factor);
      if (writes()) store<kVec>(made + i, codes);
      kept.put(i, codes);
    });
    return factor;
#else
    if (!kDefersNorm) write_made(row);
    if constexpr (kPlanes == 1) {
      each([&](int piece, int i) { kept.put(i, reinterpret_cast<const Vec<K, kVec>&>(row.values[piece])); });
      return 1.0f;
    } else {
      const int member = threadIdx.x / 32 % kMembers;
      leave_largest(row);
      sync_members(member);
      float absmax = 0.0f;
#pragma unroll
      for (int i = 0; i < kTeams; i++) absmax = MaxMagnitude()(absmax, board.largest[i * kMembers + member]);
      const float factor = absmax > 1e-30f ? kLargestInteger / absmax : 0.0f;
      each([&](int piece, int i) {
        int integers[kVec];
#pragma unroll
        for (int j = 0; j < kVec; j++) integers[j] = __float2int_rn(number(row, piece, j) * factor);
        kept.put(i, integers);
      });
      return absmax / kLargestInteger;
    }
#endif
#endif
  }

  /// What all sums are to be multiplied with besides.
  __device__ __forceinline__ float left_factor() const {
#if NORM
    if (kDefersNorm) return norm_factor();
#endif
    return 1.0f;
  }

#if NORM && !QUANTIZE
  /// What `keep` left out of a deferred norm, once all squares are there: what is written of x.
  __device__ __forceinline__ void finish(RowPart& row) const {
    if (!kDefersNorm || !writes()) return;
    normalize(row, norm_factor());
    write_made(row);
  }
#endif
};
