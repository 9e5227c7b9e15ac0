// Uploads: one queue, from which every thread takes a piece, reads it into a stage of its own and has the driver copy it on.
#include "upload.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <new>
#include <vector>

#include "lock.h"

namespace needletail {
namespace {

/// Bytes of the file `fd` from `start` on, or of `memory`.
struct Upload {
  int32_t fd;
  const uint8_t* memory;
  int64_t start;
  int64_t bytes;
  uint64_t target;
};

class Uploader {
 public:
  explicit Uploader(const NtUploaderConfig& config)
      : config_(config), events_(config.events, config.events + config.num_threads * config.stages_per_thread) {}
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  int32_t start();
  void submit(const Upload& upload);
  int32_t wait(int64_t num_uploads, NtUploadFailure* failure);
  int64_t num_done();
  void stop();

 private:
  struct Worker {
    Uploader* uploader;
    int64_t thread;
  };
  struct Pending {
    Upload upload;
    int64_t bytes_taken;
    int64_t bytes_left;
  };
  /// As much of an upload as fits into a stage.
  struct Piece {
    Upload part;
    int64_t upload;
  };

  static void* run(void* worker);
  NtUploadFailure work(int64_t thread);
  NtUploadFailure send(const Piece& piece, int64_t stage) const;
  bool take(Piece* piece);
  void finish(const Piece& piece);
  bool has_next() const { return next_ < num_done_ + int64_t(pending_.size()); }
  void skip_taken();
  void forget_done();

  const NtUploaderConfig config_;
  const std::vector<void*> events_;
  std::vector<pthread_t> threads_;
  std::vector<Worker> workers_;

  // All below is under the lock.
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t submitted_ = PTHREAD_COND_INITIALIZER;
  pthread_cond_t progressed_ = PTHREAD_COND_INITIALIZER;
  /// From upload number `num_done_` on.
  std::deque<Pending> pending_;
  int64_t num_done_ = 0;
  /// Of the first that has bytes to take.
  int64_t next_ = 0;
  bool is_stopping_ = false;
  NtUploadFailure failure_{};
};

int32_t Uploader::start() {
  workers_.resize(config_.num_threads);
  for (int64_t thread = 0; thread < config_.num_threads; thread++) {
    workers_[thread] = {this, thread};
    pthread_t handle;
    if (pthread_create(&handle, nullptr, run, &workers_[thread]) != 0) return NT_THREADS_UNAVAILABLE;
    threads_.push_back(handle);
  }
  return NT_OK;
}

Uploader::~Uploader() {
  stop();
  for (pthread_t thread : threads_) pthread_join(thread, nullptr);
}

void Uploader::stop() {
  Lock lock(&mutex_);
  is_stopping_ = true;
  pthread_cond_broadcast(&submitted_);
  pthread_cond_broadcast(&progressed_);
}

void Uploader::submit(const Upload& upload) {
  Lock lock(&mutex_);
  pending_.push_back({upload, 0, upload.bytes});
  skip_taken();
  forget_done();
  pthread_cond_broadcast(&submitted_);
}

int32_t Uploader::wait(int64_t num_uploads, NtUploadFailure* failure) {
  Lock lock(&mutex_);
  while (num_done_ < num_uploads && !is_stopping_) pthread_cond_wait(&progressed_, &mutex_);
  *failure = failure_;
  return num_done_ >= num_uploads ? NT_OK : NT_STOPPED;
}

int64_t Uploader::num_done() {
  Lock lock(&mutex_);
  return num_done_;
}

void* Uploader::run(void* argument) {
  const auto& worker = *static_cast<Worker*>(argument);
  Uploader& uploader = *worker.uploader;
  const NtUploadFailure failure = uploader.work(worker.thread);
  if (failure.problem == NtUploadProblem::kNone) return nullptr;
  {
    Lock lock(&uploader.mutex_);
    if (uploader.failure_.problem == NtUploadProblem::kNone) uploader.failure_ = failure;
  }
  uploader.stop();
  return nullptr;
}

NtUploadFailure Uploader::work(int64_t thread) {
  const int64_t own_bytes = config_.stages_per_thread * config_.stage_bytes;
  // New pages are zeroed when they are touched: by all threads at once.
  std::memset(config_.stages + thread * own_bytes, 0, own_bytes);
  const int status = config_.functions.set_context(config_.context);
  if (status != 0) return {NtUploadProblem::kDriver, status, 0};
  Piece piece;
  for (int64_t turn = 0; take(&piece); turn = (turn + 1) % config_.stages_per_thread) {
    const NtUploadFailure failure = send(piece, thread * config_.stages_per_thread + turn);
    if (failure.problem != NtUploadProblem::kNone) return failure;
    finish(piece);
  }
  return {};
}

bool Uploader::take(Piece* piece) {
  Lock lock(&mutex_);
  while (!has_next() && !is_stopping_) pthread_cond_wait(&submitted_, &mutex_);
  if (is_stopping_) return false;
  Pending& pending = pending_[next_ - num_done_];
  const int64_t at = pending.bytes_taken;
  const int64_t bytes = std::min(config_.stage_bytes, pending.upload.bytes - at);
  Upload part = pending.upload;
  part.start += at;
  part.target += at;
  part.bytes = bytes;
  *piece = {part, next_};
  pending.bytes_taken += bytes;
  skip_taken();
  return true;
}

/// One of no bytes is taken at once.
void Uploader::skip_taken() {
  const auto is_taken = [](const Pending& pending) { return pending.bytes_taken == pending.upload.bytes; };
  while (has_next() && is_taken(pending_[next_ - num_done_])) next_++;
}

void Uploader::finish(const Piece& piece) {
  Lock lock(&mutex_);
  pending_[piece.upload - num_done_].bytes_left -= piece.part.bytes;
  forget_done();
}

void Uploader::forget_done() {
  for (; !pending_.empty() && pending_.front().bytes_left == 0; num_done_++) pending_.pop_front();
  pthread_cond_broadcast(&progressed_);
}

NtUploadFailure read_file(const Upload& part, uint8_t* into, int64_t upload) {
  for (int64_t done = 0; done < part.bytes;) {
    const ssize_t count = pread(part.fd, into + done, part.bytes - done, part.start + done);
    if (count == 0) return {NtUploadProblem::kCutShort, 0, upload};
    if (count < 0 && errno != EINTR) return {NtUploadProblem::kUnreadable, errno, upload};
    done += std::max<ssize_t>(count, 0);
  }
  return {};
}

NtUploadFailure Uploader::send(const Piece& piece, int64_t stage) const {
  const auto& [set_context, copy_to_device, record_event, synchronize_event] = config_.functions;
  const Upload& part = piece.part;
  uint8_t* bytes = config_.stages + stage * config_.stage_bytes;
  int status = synchronize_event(events_[stage]);
  if (status == 0) {
    if (part.memory) std::memcpy(bytes, part.memory + part.start, part.bytes);
    else if (const auto failure = read_file(part, bytes, piece.upload); failure.problem != NtUploadProblem::kNone) return failure;
    status = copy_to_device(part.target, bytes, part.bytes, config_.stream);
  }
  if (status == 0) status = record_event(events_[stage], config_.stream);
  return {status == 0 ? NtUploadProblem::kNone : NtUploadProblem::kDriver, status, piece.upload};
}

}  // namespace
}  // namespace needletail

using needletail::Uploader;

int32_t nt_uploader_create(const NtUploaderConfig* config, void** uploader) {
  *uploader = nullptr;
  const bool is_valid = config->num_threads >= 1 && config->stages_per_thread >= 1 && config->stage_bytes >= 1;
  if (!is_valid) return NT_INVALID_ARGUMENT;
  auto* created = new (std::nothrow) Uploader(*config);
  if (!created) return NT_OUT_OF_MEMORY;
  const int32_t status = created->start();
  if (status == NT_OK) *uploader = created;
  else delete created;
  return status;
}

void nt_uploader_destroy(void* uploader) { delete static_cast<Uploader*>(uploader); }

void nt_upload_submit(void* uploader, int32_t fd, const void* memory, int64_t start, int64_t bytes, uint64_t target) {
  static_cast<Uploader*>(uploader)->submit({fd, static_cast<const uint8_t*>(memory), start, bytes, target});
}

int32_t nt_upload_wait(void* uploader, int64_t num_uploads, NtUploadFailure* failure) {
  return static_cast<Uploader*>(uploader)->wait(num_uploads, failure);
}

int64_t nt_upload_num_done(void* uploader) { return static_cast<Uploader*>(uploader)->num_done(); }

void nt_uploader_stop(void* uploader) { static_cast<Uploader*>(uploader)->stop(); }
