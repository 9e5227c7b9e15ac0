// Packing at load: a part of a checkpoint's tensor becomes rows of a weight in its type and layout.
#pragma once

#include "load.h"
#include "thread-context.h"

namespace needletail {

/// Packs a task of kind kPart; every thread of the team calls it. The weight's memory starts as zeros: what pads a
/// panel is not written.
void pack_part(const ThreadContext& context, NtLoadTask& task);

}  // namespace needletail
