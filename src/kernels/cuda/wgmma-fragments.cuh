// Products of four warps on Hopper's tensor cores (wgmma, sm_90a): 64 rows, in registers or in shared
// memory, times tiles in shared memory.
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

/// Tells of a panel of rows `width` bytes wide (128, 64 or 32), its 16-byte pieces exchanged as in kv-tile.cuh. `next_panel`:
/// bytes to the panel that goes on with the rows, if a product takes two.
__device__ __forceinline__ u64 describe_panel(const void* panel, int width, int next_panel) {
  const u64 swizzle = width == 128 ? 1 : width == 64 ? 2 : 3;
  return u64(shared_address(panel) >> 4 & 0x3fff) | u64(next_panel / 16) << 16 | u64(8 * width / 16) << 32 | swizzle << 62;
}
__device__ __forceinline__ u64 describe_panel(const void* panel, int width) { return describe_panel(panel, width, 8 * width); }

#define WGMMA_TYPE_bf16 "bf16"
#define WGMMA_TYPE_fp16 "f16"
#define WGMMA_NAMED(type) WGMMA_TYPE_##type
#define WGMMA_TYPE(type) WGMMA_NAMED(type)
#define WGMMA_NUMBERS_2 "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_NUMBERS_4 WGMMA_NUMBERS_2 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_NUMBERS_8 WGMMA_NUMBERS_4 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_NUMBERS_16                                                                                           \
  WGMMA_NUMBERS_8 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54," \
                  "%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_SUM_1(i) "+f"(sum[i][0]), "+f"(sum[i][1]), "+f"(sum[i][2]), "+f"(sum[i][3])
#define WGMMA_SUM_2(i) WGMMA_SUM_1(i), WGMMA_SUM_1(i + 1)
#define WGMMA_SUM_4(i) WGMMA_SUM_2(i), WGMMA_SUM_2(i + 2)
#define WGMMA_SUM_8(i) WGMMA_SUM_4(i), WGMMA_SUM_4(i + 4)
#define WGMMA_SUM_16(i) WGMMA_SUM_8(i), WGMMA_SUM_8(i + 8)

#define WGMMA(width, size, a_at, panel_at, adds_at, flags)                                                                     \
  "{\n.reg .pred adds;\nsetp.ne.b32 adds, " adds_at ", 0;\nwgmma.mma_async.sync.aligned.m64n" width "k16.f32." WGMMA_TYPE( \
      FACTOR) "." WGMMA_TYPE(FACTOR) " {" WGMMA_NUMBERS_##size "}, " a_at ", " panel_at ", adds, 1, 1, " flags ";\n}"
#define WGMMA_OF_REGISTERS(width, size, a_at, panel_at, adds_at, flag)                                                    \
  asm volatile(WGMMA(width, size, a_at, panel_at, adds_at, flag)                                                          \
               : WGMMA_SUM_##size(0)                                                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(panel), "r"(int(adds)), "n"(kAlongRows))
#define WGMMA_OF_PANELS(width, size, a_at, panel_at, adds_at)                                                          \
  asm volatile(WGMMA(width, size, a_at, panel_at, adds_at, "0, 0") : WGMMA_SUM_##size(0) : "l"(a), "l"(panel), "r"(int(adds)))

/// sum = a · B, plus what it was if `adds`; B is 16 × 8 · kColumns. kAlongRows: 1 if a panel's rows run along the sum's
/// columns, 0 if they run along a's.
template <int kColumns, int kAlongRows>
__device__ __forceinline__ void wgmma(float (*sum)[4], const u32 (&a)[4], u64 panel, bool adds) {
  if constexpr (kColumns == 16) WGMMA_OF_REGISTERS("128", 16, "{%64,%65,%66,%67}", "%68", "%69", "%70");
  else if constexpr (kColumns == 8) WGMMA_OF_REGISTERS("64", 8, "{%32,%33,%34,%35}", "%36", "%37", "%38");
  else if constexpr (kColumns == 4) WGMMA_OF_REGISTERS("32", 4, "{%16,%17,%18,%19}", "%20", "%21", "%22");
  else WGMMA_OF_REGISTERS("16", 2, "{%8,%9,%10,%11}", "%12", "%13", "%14");
}

/// The same with a in shared memory too, told of as a panel; both panels' rows run along the product's depth.
template <int kColumns> __device__ __forceinline__ void wgmma(float (*sum)[4], u64 a, u64 panel, bool adds) {
  if constexpr (kColumns == 16) WGMMA_OF_PANELS("128", 16, "%64", "%65", "%66");
  else if constexpr (kColumns == 8) WGMMA_OF_PANELS("64", 8, "%32", "%33", "%34");
  else WGMMA_OF_PANELS("32", 4, "%16", "%17", "%18");
}
