// Kernels by the names that plans call them, with what a program must know of each.
#pragma once

#include "../src/kernels/cpu/kernels.h"
#include "program.h"

namespace needletail {

struct KernelEntry {
  const char* name;
  Kernel run;
  /// Null: needs no scratch.
  ScratchBytes (*scratch)(const Command&, const ScratchQuery&);
  /// Operand that is a step's array of row numbers of the operand after it, in which every number must lie; −1: none.
  int32_t ids_input;
  int32_t table_input;
};

int32_t num_kernels();
const KernelEntry& kernel_at(int32_t index);

}  // namespace needletail
