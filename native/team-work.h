// Jobs that are one call of every thread: what calibration computes beside a model.
#pragma once

#include <new>

#include "needletail.h"
#include "runtime.h"

namespace needletail {

/// Submits a copy of `work`; `run` is called by all threads at once.
template <typename Work, void (*run)(const ThreadContext& context, const Work& work)>
int32_t submit_work(void* runtime, const Work* work, int32_t job) {
  auto* argument = new (std::nothrow) Work(*work);
  if (!argument) return NT_OUT_OF_MEMORY;
  const auto run_all = [](Runtime& runtime, void* argument) -> int32_t {
    runtime.run_on_all([](const ThreadContext& context, void* work) { run(context, *static_cast<const Work*>(work)); },
                       argument);
    delete static_cast<Work*>(argument);
    return NT_OK;
  };
  static_cast<Runtime*>(runtime)->submit({run_all, argument, job});
  return NT_OK;
}

}  // namespace needletail
