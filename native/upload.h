// The C ABI of uploads to a GPU: threads read files and memory into page-locked stages, from which its driver copies.
// TypeScript binds it in src/ffi/uploads.ts.
#pragma once

#include "needletail.h"

/// Functions of the CUDA driver; each gives 0 where it succeeds.
struct NtCopyFunctions {
  int (*set_context)(void* context);
  int (*copy_to_device)(uint64_t target, const void* source, uint64_t bytes, void* stream);
  int (*record_event)(void* event, void* stream);
  int (*synchronize_event)(void* event);
};

/// `num_threads · stages_per_thread` stages of `stage_bytes` each, one after the other, and an event for each. The threads touch
/// them first; they are to be page-locked before anything is submitted.
struct NtUploaderConfig {
  NtCopyFunctions functions;
  void* context;
  void* stream;
  uint8_t* stages;
  void* const* events;
  int64_t stage_bytes;
  int64_t num_threads;
  int64_t stages_per_thread;
};

enum class NtUploadProblem : int32_t {
  kNone = 0,
  /// The file ended too early.
  kCutShort = 1,
  /// `code` is `errno`.
  kUnreadable = 2,
  /// `code` is the driver's status.
  kDriver = 3,
};

/// The first thing that went wrong.
struct NtUploadFailure {
  NtUploadProblem problem;
  int32_t code;
  int64_t upload;
};

NT_EXPORT int32_t nt_uploader_create(const NtUploaderConfig* config, void** uploader);
/// Has the threads end what they are at, and joins them. Nobody may be waiting.
NT_EXPORT void nt_uploader_destroy(void* uploader);
/// Of `memory`, or where that is null of the file `fd`, `bytes` from `start` on. Both must stay until the upload is done.
/// Uploads are numbered from 0 on, and begun in that order.
NT_EXPORT void nt_upload_submit(void* uploader, int32_t fd, const void* memory, int64_t start, int64_t bytes, uint64_t target);
/// Blocks until the first `num_uploads` are on the stream. NT_STOPPED if they will never be, and why.
NT_EXPORT int32_t nt_upload_wait(void* uploader, int64_t num_uploads, NtUploadFailure* failure);
/// So many of the first are on the stream.
NT_EXPORT int64_t nt_upload_num_done(void* uploader);
/// Nothing more is begun; whoever waits is told.
NT_EXPORT void nt_uploader_stop(void* uploader);
