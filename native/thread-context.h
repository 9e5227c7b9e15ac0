// What a kernel knows of the pool that runs it: its thread's number, a barrier, and chunks handed out on demand.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace needletail {

/// Tells the core that this thread is spinning.
inline void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// State that the threads of one pool share; each field has its own cache line, since all threads write it.
struct ThreadTeam {
  alignas(64) std::atomic<int32_t> num_arrived{0};
  alignas(64) std::atomic<uint32_t> phase{0};
  alignas(64) std::atomic<int64_t> next_chunk{0};
};

/// One thread's view of its team. Kernels are called by every thread at once, each with its own context.
struct ThreadContext {
  int32_t thread;
  int32_t num_threads;
  ThreadTeam* team;

  /// Wait until every thread of the team is here. Writes made before it are visible after it, and the chunk
  /// counter restarts at zero. Every thread of the team must call it equally often.
  void barrier() const {
    const uint32_t phase = team->phase.load(std::memory_order_relaxed);
    if (team->num_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
      team->num_arrived.store(0, std::memory_order_relaxed);
      team->next_chunk.store(0, std::memory_order_relaxed);
      team->phase.store(phase + 1, std::memory_order_release);
      return;
    }
    // Phases last microseconds, so waiting spins at first; then it yields, for the missing thread may wait for this core.
    for (int32_t spins = 0; team->phase.load(std::memory_order_acquire) == phase; spins++) {
      if (spins < kSpinsBeforeYield) spin_pause();
      else std::this_thread::yield();
    }
  }

  /// The next number 0, 1, 2, … that no thread of the team has taken since the last barrier. A kernel may
  /// distribute one list of chunks so between two barriers; whoever runs kernels puts a barrier after each.
  int64_t take_chunk() const { return team->next_chunk.fetch_add(1, std::memory_order_relaxed); }

 private:
  static constexpr int32_t kSpinsBeforeYield = 64;
};

}  // namespace needletail
