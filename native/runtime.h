// A pool of threads that lives as long as its device. Its first thread takes jobs in order and leads the others.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "thread-context.h"

namespace needletail {

class Runtime;

/// Something for the pool to do: `run` is called on the leading thread and gives a status.
struct Job {
  int32_t (*run)(Runtime& runtime, void* argument);
  void* argument;
  int32_t id;
};

class Runtime {
 public:
  static int32_t create(int32_t num_threads, Runtime** runtime, int32_t* completion_fd);
  /// Abandons a running job at its next check of `is_stopping`, then joins the threads.
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  void submit(const Job& job);
  /// Call `work` on every thread at once and wait for all of them. Only jobs may use it.
  void run_on_all(void (*work)(const ThreadContext&, void*), void* argument);
  bool is_stopping() const { return stopping_.load(std::memory_order_relaxed); }
  int32_t num_threads() const { return num_threads_; }

 private:
  struct Worker {
    Runtime* runtime;
    int32_t thread;
  };

  explicit Runtime(int32_t num_threads) : num_threads_(num_threads) {}
  int32_t start(int32_t* completion_fd);
  static void* lead(void* runtime);
  static void* follow(void* worker);
  void stop_and_join();
  bool take_job(Job* job);
  void report(int32_t job, int32_t status) const;
  /// Waits until `work_epoch_` differs from `seen`; false if the leading thread has ended instead.
  bool wait_for_work(uint32_t seen);

  const int32_t num_threads_;
  ThreadTeam team_;
  std::vector<pthread_t> threads_;
  std::vector<Worker> workers_;
  int completion_write_fd_ = -1;

  // Jobs and work wait under one lock.
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed_ = PTHREAD_COND_INITIALIZER;
  std::deque<Job> jobs_;
  std::atomic<uint32_t> work_epoch_{0};
  void (*work_)(const ThreadContext&, void*) = nullptr;
  void* work_argument_ = nullptr;
  std::atomic<bool> stopping_{false};
  /// The other threads outlive the leading one: until it ends it may still hand out work.
  std::atomic<bool> has_leader_ended_{false};
};

}  // namespace needletail
