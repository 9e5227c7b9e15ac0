// Memory for weights, cache and activations.
#include <sys/mman.h>

#include "needletail.h"

int32_t nt_memory_allocate(uint64_t bytes, void** memory) {
  *memory = nullptr;
  if (bytes == 0) return NT_INVALID_ARGUMENT;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return NT_OUT_OF_MEMORY;
#if defined(MADV_HUGEPAGE)
  // Only advice: walking gigabytes of weights in pages of 4 KiB would spend its time on page tables.
  madvise(mapped, bytes, MADV_HUGEPAGE);
#endif
  *memory = mapped;
  return NT_OK;
}

void nt_memory_free(void* memory, uint64_t bytes) {
  if (memory) munmap(memory, bytes);
}

uint64_t nt_address(const void* memory) { return reinterpret_cast<uint64_t>(memory); }
