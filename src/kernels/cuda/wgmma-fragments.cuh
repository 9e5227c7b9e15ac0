// Products of four warps on Hopper's tensor cores (wgmma, sm_90a): 64 rows in registers times tiles in shared memory.
// Left operands and sums are in the layout of mma.cuh, 16 rows to a warp. FACTOR: the operands' type.
#pragma once
#include "mma.cuh"
#include "wgmma-order.cuh"

/// Keeps what was computed into sums ahead of this place: the products read registers behind the compiler's back.
template <int kCount> __device__ __forceinline__ void settle(float (&sum)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; i++)
    asm volatile("" : "+f"(sum[i][0]), "+f"(sum[i][1]), "+f"(sum[i][2]), "+f"(sum[i][3])::"memory");
}

/// Tells of a panel of rows `width` bytes wide (128, 64 or 32), its 16-byte pieces exchanged as in kv-tile.cuh.
__device__ __forceinline__ u64 describe_panel(const void* panel, int width) {
  const u64 swizzle = width == 128 ? 1 : width == 64 ? 2 : 3;
  const u64 eight_rows = 8 * width / 16;
  return u64(shared_address(panel) >> 4 & 0x3fff) | eight_rows << 16 | eight_rows << 32 | swizzle << 62;
}

#define WGMMA_TYPE_bf16 "bf16"
#define WGMMA_TYPE_fp16 "f16"
#define WGMMA_NAMED(type) WGMMA_TYPE_##type
#define WGMMA_TYPE(type) WGMMA_NAMED(type)
#define WGMMA(columns) \
  "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." WGMMA_TYPE(FACTOR) "." WGMMA_TYPE(FACTOR) " "
#define WGMMA_SUM(i) "+f"(sum[i][0]), "+f"(sum[i][1]), "+f"(sum[i][2]), "+f"(sum[i][3])
#define WGMMA_OPERANDS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(panel), "r"(int(adds)), "n"(kAlongRows)

/// sum = a · B, plus what it was if `adds`; B is 16 × 8 · kColumns. kAlongRows: 1 if a panel's rows run along the sum's
/// columns, 0 if they run along a's.
template <int kColumns, int kAlongRows>
__device__ __forceinline__ void wgmma(float (*sum)[4], const u32 (&a)[4], u64 panel, bool adds) {
  if constexpr (kColumns == 8)
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %37, 0;\n" WGMMA(64)
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
        "%30,%31}, {%32,%33,%34,%35}, %36, adds, 1, 1, %38;\n}"
        : WGMMA_SUM(0), WGMMA_SUM(1), WGMMA_SUM(2), WGMMA_SUM(3), WGMMA_SUM(4), WGMMA_SUM(5), WGMMA_SUM(6), WGMMA_SUM(7)
        : WGMMA_OPERANDS);
  else if constexpr (kColumns == 4)
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %21, 0;\n" WGMMA(32)
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, adds, 1, 1, %22;\n}"
        : WGMMA_SUM(0), WGMMA_SUM(1), WGMMA_SUM(2), WGMMA_SUM(3)
        : WGMMA_OPERANDS);
  else
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %13, 0;\n" WGMMA(16)
        "{%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, adds, 1, 1, %14;\n}"
        : WGMMA_SUM(0), WGMMA_SUM(1)
        : WGMMA_OPERANDS);
}

/// The same of 64 columns, with a in shared memory too.
__device__ __forceinline__ void wgmma_shared(float (*sum)[4], u64 a, u64 panel, bool adds) {
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %34, 0;\n" WGMMA(64)
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
      "%30,%31}, %32, %33, adds, 1, 1, 0, 0;\n}"
      : WGMMA_SUM(0), WGMMA_SUM(1), WGMMA_SUM(2), WGMMA_SUM(3), WGMMA_SUM(4), WGMMA_SUM(5), WGMMA_SUM(6), WGMMA_SUM(7)
      : "l"(a), "l"(panel), "r"(int(adds)));
}
