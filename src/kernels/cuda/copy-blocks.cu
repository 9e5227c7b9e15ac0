// Copies KV blocks before a step (copy on write). `regions`: (group, bytes of a block, address) of every cache region.
#include "common.cuh"

/// Grid [regions, copies]; `copies` tells where (group, source block, destination block) triples lie.
extern "C" __global__ void copy_blocks(const i64* regions, const int* const* copies) {
  const i64* region = regions + 3 * blockIdx.x;
  const int* copy = *copies + 3 * blockIdx.y;
  if (region[0] != copy[0]) return;
  const i64 bytes = region[1];
  const i64 source = region[2] + copy[1] * bytes, target = region[2] + copy[2] * bytes;
  // Blocks of odd sizes do not start at multiples of 16.
  if ((region[2] | bytes) % 16 == 0)
    for (i64 i = threadIdx.x * 16; i < bytes; i += blockDim.x * 16)
      *reinterpret_cast<uint4*>(target + i) = *reinterpret_cast<const uint4*>(source + i);
  else
    for (i64 i = threadIdx.x; i < bytes; i += blockDim.x)
      *reinterpret_cast<u8*>(target + i) = *reinterpret_cast<const u8*>(source + i);
}
