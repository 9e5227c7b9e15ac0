// Barriers in shared memory: threads wait there for one another and, on Hopper and newer, for the bytes of the copy engine.
#pragma once
#include "mma.cuh"

#define HAS_COPY_ENGINE (__CUDA_ARCH__ >= 900)

__device__ __forceinline__ void init_barrier(u64* barrier, int num_arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(num_arrivals) : "memory");
}
__device__ __forceinline__ void arrive(u64* barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(barrier)) : "memory");
}
/// Until the barrier's phase of this parity is over.
__device__ __forceinline__ void wait_barrier(u64* barrier, int parity) {
#if HAS_COPY_ENGINE
  // A loop of its own: one that the compiler sees makes it doubt wgmma's registers.
  asm volatile(
      "{ .reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@!p bra AGAIN;\n}" ::"r"(
          shared_address(barrier)),
      "r"(parity)
      : "memory");
#else
  u32 is_done = 0;
  while (!is_done)
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(is_done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
#endif
}

/// Makes this thread's new barriers known to the copy engine.
__device__ __forceinline__ void publish_barriers() {
#if HAS_COPY_ENGINE
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

/// Orders this thread's own accesses to shared memory before those of the copy engine and of wgmma that come next.
__device__ __forceinline__ void fence_async_proxy() {
#if HAS_COPY_ENGINE
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#if HAS_COPY_ENGINE
/// An arrival; the phase lasts until so many more bytes have come.
__device__ __forceinline__ void announce_bytes(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
/// One thread asks L2 for what is to be copied.
__device__ __forceinline__ void prefetch_bulk(const void* source, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(source), "r"(bytes) : "memory");
}
/// One thread starts a copy; `bytes` and both addresses are multiples of 16.
__device__ __forceinline__ void copy_bulk(void* target, const void* source, u32 bytes, u64* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(target)),
               "l"(source), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
#endif
