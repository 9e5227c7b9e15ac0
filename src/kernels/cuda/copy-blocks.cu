// Copies KV blocks before a step (copy on write). `regions`: (group, bytes of a block, address) of every cache region.
#include "common.cuh"

/// Grid [regions, copies]; `copies` tells where (group, source block, destination block) triples lie.
extern "C" __global__ void copy_blocks(const i64* regions, const int* const* copies) {
  const i64* region = regions + 3 * blockIdx.x;
  const int* copy = *copies + 3 * blockIdx.y;
  if (region[0] != copy[0]) return;
  const i64 bytes = region[1];
  u8* memory = reinterpret_cast<u8*>(region[2]);
  const u8* source = memory + copy[1] * bytes;
  u8* target = memory + copy[2] * bytes;
  for (i64 i = threadIdx.x * 4; i < bytes; i += blockDim.x * 4)
    *reinterpret_cast<u32*>(target + i) = *reinterpret_cast<const u32*>(source + i);
}
