// The C ABI of the CPU library. TypeScript binds it in src/ffi/cpu-library.ts; every call gives a status.
#pragma once

#include <cstdint>

#define NT_EXPORT extern "C" __attribute__((visibility("default")))

enum NtStatus : int32_t {
  NT_OK = 0,
  NT_INVALID_ARGUMENT = 1,
  NT_OUT_OF_MEMORY = 2,
  NT_THREADS_UNAVAILABLE = 3,
  NT_PIPE_UNAVAILABLE = 4,
  /// A number of the step lies outside what it indexes; the step's message says which.
  NT_INVALID_STEP = 5,
  /// The runtime was destroyed before the job ended.
  NT_STOPPED = 6,
};

struct NtLoadTask;
struct NtMatrixProduct;
struct NtRangeSearch;
struct NtColumnRounding;
struct NtProgramHeader;

// Runtime: a pool of threads, the first of which takes jobs in order. When a job has ended, the 32-bit words
// (job, status) are written to a pipe whose reading end is `completion_fd`; the caller owns that end.
NT_EXPORT int32_t nt_runtime_create(int32_t num_threads, void** runtime, int32_t* completion_fd);
/// Abandons a running job at its next launch, joins the threads and frees the runtime.
NT_EXPORT void nt_runtime_destroy(void* runtime);

// Memory: zeroed, page-aligned, with huge pages where the system gives them.
NT_EXPORT int32_t nt_memory_allocate(uint64_t bytes, void** memory);
NT_EXPORT void nt_memory_free(void* memory, uint64_t bytes);
NT_EXPORT uint64_t nt_address(const void* memory);

/// Number of a kernel for `Variant::kernel`; −1 if there is none of that name.
NT_EXPORT int32_t nt_find_kernel(const char* name);
/// Whether this processor has the instructions that the library was compiled for.
NT_EXPORT int32_t nt_is_supported();

/// Packs weights and computes rope tables; see load.h. Tasks and what they point to must outlive the job, which writes
/// into them what it found.
NT_EXPORT int32_t nt_load_submit(void* runtime, NtLoadTask* tasks, int32_t num_tasks, int32_t job);

/// Adds a product of matrices to a third, see matrix-product.h. The matrices must outlive the job.
NT_EXPORT int32_t nt_matrix_product_submit(void* runtime, const NtMatrixProduct* product, int32_t job);

/// What calibration computes row by row, see calibration.h. The arrays must outlive the jobs.
NT_EXPORT int32_t nt_range_search_submit(void* runtime, const NtRangeSearch* search, int32_t job);
NT_EXPORT int32_t nt_column_rounding_submit(void* runtime, const NtColumnRounding* rounding, int32_t job);

/// A program is a copy of a command list; see program-header.h.
NT_EXPORT int32_t nt_program_create(void* runtime, const NtProgramHeader* header, void** program);
/// No step of it may be running.
NT_EXPORT void nt_program_destroy(void* program);
/// Runs a step laid out as step-layout.h says. Results and a refused step's message are written into it.
NT_EXPORT int32_t nt_step_submit(void* program, int32_t* step, int32_t job);
