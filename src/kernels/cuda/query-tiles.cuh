// Which queries a piece of a prompt's attention is for.
#pragma once
#include "common.cuh"

/// Neighbouring queries of a sequence: tokens `first` up to `end`, the sequence's last in the step; position = token + past.
struct alignas(16) Queries {
  int seq, first, end, past;

  /// Of the last of `count` queries.
  __device__ __forceinline__ int last_position(int count) const { return min(first + count, end) - 1 + past; }
};
