// What a kernel knows of the pool that runs it: its thread's number, a barrier, and chunks handed out on demand.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdint>

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

/// State that the threads of one pool share; each field that all threads write often has its own cache line.
struct ThreadTeam {
  alignas(64) std::atomic<int32_t> num_arrived{0};
  alignas(64) std::atomic<uint32_t> phase{0};
  alignas(64) std::atomic<int64_t> next_chunk{0};
  alignas(64) std::atomic<int32_t> num_sleeping{0};
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t phase_changed = PTHREAD_COND_INITIALIZER;
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
      // Either a sleeper sees the new phase, or this thread sees the sleeper: both orders are sequentially consistent.
      team->phase.store(phase + 1);
      if (team->num_sleeping.load() > 0) wake_team();
      return;
    }
    // Phases last microseconds, so waiting spins at first; then it yields, for the missing thread may wait for this core;
    // then it sleeps, for a core that idles takes over threads that wait for another one.
    for (int32_t spins = 0; spins < kSpinsBeforeSleep; spins++) {
      if (team->phase.load(std::memory_order_acquire) != phase) return;
      if (spins < kSpinsBeforeYield) spin_pause();
      else sched_yield();
    }
    sleep_while_phase(phase);
  }

  /// The next number 0, 1, 2, … that no thread of the team has taken since the last barrier. A kernel may
  /// distribute one list of chunks so between two barriers; whoever runs kernels puts a barrier after each.
  int64_t take_chunk() const { return team->next_chunk.fetch_add(1, std::memory_order_relaxed); }

 private:
  static constexpr int32_t kSpinsBeforeYield = 64;
  static constexpr int32_t kSpinsBeforeSleep = 128;

  void wake_team() const {
    pthread_mutex_lock(&team->mutex);
    pthread_cond_broadcast(&team->phase_changed);
    pthread_mutex_unlock(&team->mutex);
  }

  void sleep_while_phase(uint32_t phase) const {
    pthread_mutex_lock(&team->mutex);
    team->num_sleeping.fetch_add(1);
    while (team->phase.load() == phase) pthread_cond_wait(&team->phase_changed, &team->mutex);
    team->num_sleeping.fetch_sub(1);
    pthread_mutex_unlock(&team->mutex);
  }
};

}  // namespace needletail
