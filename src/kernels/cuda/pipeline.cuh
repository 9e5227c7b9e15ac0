// A ring of stages in shared memory: one warp fills it ahead with asynchronous copies, the others use up what has arrived.
// Hopper's copy engine moves whole tiles, older chips 16 bytes at a time; both report to barriers in shared memory.
//
// A tile is rows of kAtomBytes, swizzled: the 16 bytes at place p of row r lie at place p ^ (r % 8), so that eight rows' bytes of
// equal place meet different banks. Tiles start at multiples of 1024 bytes.
#pragma once
#include "barrier.cuh"

constexpr int kAtomBytes = 128;

/// The driver's description of a matrix (`CUtensorMap`).
struct alignas(64) TensorMap { u64 words[16]; };

#if HAS_COPY_ENGINE
#define COPY_TENSOR(dimensions) \
  "cp.async.bulk.tensor." dimensions ".shared::cluster.global.tile.mbarrier::complete_tx::bytes"
/// Called by a warp: one lane starts the copy of a box, from `item` of `row` on, to a tile.
__device__ __forceinline__ void copy_box(void* tile, const TensorMap* map, int item, int row, u64* full, u64 policy) {
  if (threadIdx.x % 32 == 0)
    asm volatile(COPY_TENSOR("2d") ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(tile)), "l"(map),
                 "r"(item), "r"(row), "r"(shared_address(full)), "l"(policy)
                 : "memory");
}
/// A box of one of several matrices, whose rows come in groups of eight of its first half, then eight of its second.
__device__ __forceinline__ void copy_gated_box(void* tile, const TensorMap* map, int item, int group, int matrix, u64* full,
                                               u64 policy) {
  if (threadIdx.x % 32 == 0)
    asm volatile(COPY_TENSOR("5d") ".L2::cache_hint [%0], [%1, {%2, %3, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(tile)),
                 "l"(map), "r"(item), "r"(0), "r"(group), "r"(matrix), "r"(shared_address(full)), "l"(policy)
                 : "memory");
}
#endif

/// A tile of rows, each from `start(row)` on, by the filling warp's threads; zeros beyond `bytes`. A row without a start stays as
/// it is.
template <typename Start>
__device__ __forceinline__ void copy_rows(u8* target, int byte, int num_rows, int bytes, Start start) {
  constexpr int kPlaces = kAtomBytes / 16;
  for (int i = threadIdx.x % 32; i < num_rows * kPlaces; i += 32) {
    const int r = i / kPlaces, place = i % kPlaces;
    const u8* from = start(r);
    const bool is_inside = byte + 16 * place < bytes;
    if (from) copy_async(target + r * kAtomBytes + ((place ^ (r % 8)) * 16), from + (is_inside ? byte + 16 * place : 0), is_inside);
  }
}

/// A matrix of bytes as the filling warp finds it. Past its end there are zeros, or with the copy engine off, the last row again.
struct Tiles {
  static constexpr bool kByThreads = !HAS_COPY_ENGINE;
#if HAS_COPY_ENGINE
  const TensorMap* map;  // boxes of kAtomBytes × the tile's rows, 128-byte swizzle
  u64 policy;

  __device__ __forceinline__ void fill(u8* target, int row, int byte, int num_rows, int item_bytes, u64* full) const {
    copy_box(target, map, byte / item_bytes, row, full, policy);
  }
#else
  const u8* at;
  i64 row_stride;
  int rows, bytes;  // of the matrix

  __device__ __forceinline__ void fill(u8* target, int row, int byte, int num_rows, int, u64*) const {
    copy_rows(target, byte, num_rows, bytes, [&](int r) { return at + min(row + r, rows - 1) * row_stride; });
  }
#endif
};

#if HAS_COPY_ENGINE
/// A matrix of bytes in boxes of several neighbouring tiles, each of which comes at once.
struct Boxes {
  const TensorMap* map;
  u64 policy;

  /// One thread; `atom` counts kAtomBytes of a row.
  __device__ __forceinline__ void fill(u8* target, int row, int atom, u64* full) const {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
        "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(target)),
        "l"(map), "r"(0), "r"(row), "r"(atom), "r"(shared_address(full)), "l"(policy)
        : "memory");
  }
  /// The same of a matrix whose rows come in groups of eight of its first half, then eight of its second.
  __device__ __forceinline__ void fill_gated(u8* target, int group, int atom, u64* full) const {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
        "[%1, {%2, %2, %2, %3, %4}], [%5], %6;" ::"r"(shared_address(target)),
        "l"(map), "r"(0), "r"(group), "r"(atom), "r"(shared_address(full)), "l"(policy)
        : "memory");
  }
};
#endif

/// L2 is told to drop first what is read once, and to keep what others read too.
__device__ __forceinline__ u64 policy_to_drop() {
  u64 policy = 0;
#if HAS_COPY_ENGINE
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}
__device__ __forceinline__ u64 policy_to_keep() {
  u64 policy = 0;
#if HAS_COPY_ENGINE
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

/// The barriers of a ring. Turn t has its place at stage t % NUM_STAGES. kByThreads: whether threads copy, beside the copy engine
/// where there is one.
template <int NUM_STAGES, int NUM_READERS, bool kByThreads = !HAS_COPY_ENGINE> struct Ring {
  u64 full[NUM_STAGES], empty[NUM_STAGES];

  /// One thread, before a barrier of the block.
  __device__ __forceinline__ void init() {
    for (int stage = 0; stage < NUM_STAGES; stage++) {
      init_barrier(&full[stage], (HAS_COPY_ENGINE ? 1 : 0) + (kByThreads ? 32 : 0));
      init_barrier(&empty[stage], NUM_READERS);
    }
    publish_barriers();
  }

  /// Until a turn's stage is free.
  __device__ __forceinline__ void wait_empty(int turn) {
    if (turn >= NUM_STAGES) wait_barrier(&empty[turn % NUM_STAGES], (turn / NUM_STAGES - 1) % 2);
  }
  /// The filling warp, before the copies of a turn, `bytes` in all: until the stage is free.
  __device__ __forceinline__ void begin_fill(int turn, u32 bytes) {
    wait_empty(turn);
#if HAS_COPY_ENGINE
    if (threadIdx.x % 32 == 0) announce_bytes(&full[turn % NUM_STAGES], bytes);
#endif
  }
  /// After the last copy of a turn.
  __device__ __forceinline__ void end_fill(int turn) {
    if (kByThreads)
      asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(&full[turn % NUM_STAGES]))
                   : "memory");
  }

  __device__ __forceinline__ void wait_full(int turn) { wait_barrier(&full[turn % NUM_STAGES], turn / NUM_STAGES % 2); }
  /// A reading warp is done with a turn.
  __device__ __forceinline__ void release(int turn) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(&empty[turn % NUM_STAGES]);
  }
};
