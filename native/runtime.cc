// The pool: job queue, hand-over of work to the threads, completion by pipe.
#include "runtime.h"

#include <fcntl.h>
#include <unistd.h>

#include <new>

#include "lock.h"
#include "needletail.h"

namespace needletail {
namespace {

/// About 20 µs: longer than a job takes to check its input, short enough to leave the core to the caller.
constexpr int kSpinsBeforeSleep = 512;

/// Flush denormal numbers to zero: the tail of a softmax must not run at a hundredth of the speed.
void flush_denormals() {
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);
#elif defined(__aarch64__)
  uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  asm volatile("msr fpcr, %0" ::"r"(control | (1ull << 24)));
#endif
}

template <typename Condition>
bool spin_until(Condition condition) {
  for (int spin = 0; spin < kSpinsBeforeSleep; spin++) {
    if (condition()) return true;
    spin_pause();
  }
  return false;
}

}  // namespace

int32_t Runtime::create(int32_t num_threads, Runtime** runtime, int32_t* completion_fd) {
  if (num_threads < 1 || num_threads > 1024) return NT_INVALID_ARGUMENT;
  auto* created = new (std::nothrow) Runtime(num_threads);
  if (!created) return NT_OUT_OF_MEMORY;
  const int32_t status = created->start(completion_fd);
  if (status == NT_OK) *runtime = created;
  else delete created;
  return status;
}

int32_t Runtime::start(int32_t* completion_fd) {
  int fds[2];
  if (pipe(fds) != 0) return NT_PIPE_UNAVAILABLE;
  for (int fd : fds) fcntl(fd, F_SETFD, FD_CLOEXEC);
  completion_write_fd_ = fds[1];
  workers_.resize(num_threads_);
  for (int32_t thread = 0; thread < num_threads_; thread++) {
    workers_[thread] = {this, thread};
    pthread_t handle;
    void* argument = thread == 0 ? static_cast<void*>(this) : &workers_[thread];
    if (pthread_create(&handle, nullptr, thread == 0 ? lead : follow, argument) != 0) {
      close(fds[0]);
      return NT_THREADS_UNAVAILABLE;
    }
    threads_.push_back(handle);
  }
  *completion_fd = fds[0];
  return NT_OK;
}

Runtime::~Runtime() {
  stop_and_join();
  if (completion_write_fd_ >= 0) close(completion_write_fd_);
}

void Runtime::stop_and_join() {
  {
    Lock lock(&mutex_);
    stopping_.store(true);
    pthread_cond_broadcast(&changed_);
  }
  for (pthread_t thread : threads_) pthread_join(thread, nullptr);
}

void Runtime::submit(const Job& job) {
  Lock lock(&mutex_);
  jobs_.push_back(job);
  pthread_cond_broadcast(&changed_);
}

void* Runtime::lead(void* argument) {
  auto& runtime = *static_cast<Runtime*>(argument);
  flush_denormals();
  Job job;
  while (runtime.take_job(&job)) runtime.report(job.id, job.run(runtime, job.argument));
  Lock lock(&runtime.mutex_);
  runtime.has_leader_ended_.store(true);
  pthread_cond_broadcast(&runtime.changed_);
  return nullptr;
}

bool Runtime::take_job(Job* job) {
  Lock lock(&mutex_);
  while (jobs_.empty() && !is_stopping()) pthread_cond_wait(&changed_, &mutex_);
  if (is_stopping()) return false;
  *job = jobs_.front();
  jobs_.pop_front();
  return true;
}

void Runtime::report(int32_t job, int32_t status) const {
  const int32_t words[2] = {job, status};
  // A failure means that the reader is gone, and with it whoever waits for the job.
  if (write(completion_write_fd_, words, sizeof words) != sizeof words) return;
}

void Runtime::run_on_all(void (*work)(const ThreadContext&, void*), void* argument) {
  team_.next_chunk.store(0, std::memory_order_relaxed);
  {
    Lock lock(&mutex_);
    work_ = work;
    work_argument_ = argument;
    work_epoch_.fetch_add(1, std::memory_order_release);
    if (num_threads_ > 1) pthread_cond_broadcast(&changed_);
  }
  const ThreadContext context{0, num_threads_, &team_};
  work(context, argument);
  context.barrier();
}

void* Runtime::follow(void* argument) {
  const auto& worker = *static_cast<Worker*>(argument);
  Runtime& runtime = *worker.runtime;
  const ThreadContext context{worker.thread, runtime.num_threads_, &runtime.team_};
  flush_denormals();
  for (uint32_t seen = 0; runtime.wait_for_work(seen); seen++) {
    runtime.work_(context, runtime.work_argument_);
    context.barrier();
  }
  return nullptr;
}

bool Runtime::wait_for_work(uint32_t seen) {
  const auto is_new = [&] { return work_epoch_.load(std::memory_order_acquire) != seen; };
  while (!has_leader_ended_.load()) {
    // A job's arrival wakes everyone, so that work finds the threads awake a moment later.
    if (spin_until(is_new)) return true;
    Lock lock(&mutex_);
    if (!is_new() && !has_leader_ended_.load()) pthread_cond_wait(&changed_, &mutex_);
  }
  return is_new();
}

}  // namespace needletail

using needletail::Runtime;

int32_t nt_runtime_create(int32_t num_threads, void** runtime, int32_t* completion_fd) {
  Runtime* created = nullptr;
  const int32_t status = Runtime::create(num_threads, &created, completion_fd);
  *runtime = created;
  return status;
}

void nt_runtime_destroy(void* runtime) { delete static_cast<Runtime*>(runtime); }
