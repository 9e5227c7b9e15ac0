// Packing at load of what quantized weights consist of: codes and scales, from a checkpoint's or made of its floats.
#pragma once

#include "load.h"
#include "thread-context.h"

namespace needletail {

/// Every thread of the team calls these. Codes become rows of a weight of layout panel16words.
void pack_codes(const ThreadContext& context, NtLoadTask& task);
/// Scales become rows of a matrix [rows, groups], or with zeros [rows, 2 · groups], of layout panel16 or row-major.
void pack_made_scales(const ThreadContext& context, NtLoadTask& task);
/// Looks for bad ones among scales that are packed like any floats.
void check_scales(const ThreadContext& context, NtLoadTask& task);

}  // namespace needletail
