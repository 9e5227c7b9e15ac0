// Products by a warpgroup of Hopper's (wgmma, sm_90a) of 8-bit codes or 16-bit numbers: both operands lie in shared memory, rows of
// 128 bytes swizzled as the copy engine does.
#pragma once
#include "dequantize.cuh"
#include "pipeline.cuh"
#include "wgmma-order.cuh"

/// One thread: a matrix will be copied from.
__device__ __forceinline__ void ask_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// Rows of 128 bytes, swizzled, 1024-byte aligned in groups of eight.
__device__ __forceinline__ u64 describe_tile(const void* tile) {
  return u64(shared_address(tile) & 0x3ffff) >> 4 | u64(1) << 16 | u64(64) << 32 | u64(1) << 62;
}

/// sum [64, 2 · size] (+)= 64 rows of 32 bytes · 2 · size rows of 32 bytes, transposed. Thread 32w + 4g + c of the warpgroup has
/// rows 16w + g and 16w + g + 8, columns 8i + 2c and 8i + 2c + 1.
template <typename Item, typename Sum, int kSize>
__device__ __forceinline__ void wgmma(Sum (&sum)[kSize], u64 a, u64 b, int accumulate);

#define OPERANDS_8(C, x, i) C(x[i]), C(x[i + 1]), C(x[i + 2]), C(x[i + 3]), C(x[i + 4]), C(x[i + 5]), C(x[i + 6]), C(x[i + 7])
#define OPERANDS_32(C, x, i) OPERANDS_8(C, x, i), OPERANDS_8(C, x, i + 8), OPERANDS_8(C, x, i + 16), OPERANDS_8(C, x, i + 24)
#define NUMBERS_32_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NUMBERS_32_1 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NUMBERS_32_2 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define NUMBERS_32_3 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define NUMBERS_16_2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NUMBERS_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define NUMBERS_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"

#define DEFINE_WGMMA(Item, Sum, C, types, depth, flags, columns, size, numbers, a_number, b_number, p_number, ...)                   \
  template <> __device__ __forceinline__ void wgmma<Item, Sum, size>(Sum(&sum)[size], u64 a, u64 b, int accumulate) {           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p_number ", 0;\n"                                                       \
                 "wgmma.mma_async.sync.aligned.m64n" columns depth types " {" numbers "}, " a_number ", " b_number           \
                 ", p" flags ";\n}"                                                                                          \
                 : __VA_ARGS__                                                                                                \
                 : "l"(a), "l"(b), "r"(accumulate));                                                                          \
  }
#define DEFINE_WGMMAS(Item, Sum, C, types, depth, flags)                                                                          \
  DEFINE_WGMMA(Item, Sum, C, types, depth, flags, "16", 8, NUMBERS_8, "%8", "%9", "%10", OPERANDS_8(C, sum, 0))                      \
  DEFINE_WGMMA(Item, Sum, C, types, depth, flags, "32", 16, NUMBERS_16, "%16", "%17", "%18", OPERANDS_8(C, sum, 0),                  \
               OPERANDS_8(C, sum, 8))                                                                                         \
  DEFINE_WGMMA(Item, Sum, C, types, depth, flags, "64", 32, NUMBERS_32_0, "%32", "%33", "%34", OPERANDS_32(C, sum, 0))               \
  DEFINE_WGMMA(Item, Sum, C, types, depth, flags, "96", 48, NUMBERS_32_0 "," NUMBERS_16_2, "%48", "%49", "%50",                      \
               OPERANDS_32(C, sum, 0), OPERANDS_8(C, sum, 32), OPERANDS_8(C, sum, 40))                                        \
  DEFINE_WGMMA(Item, Sum, C, types, depth, flags, "128", 64, NUMBERS_32_0 "," NUMBERS_32_1, "%64", "%65", "%66",                     \
               OPERANDS_32(C, sum, 0), OPERANDS_32(C, sum, 32))                                                               \
  DEFINE_WGMMA(Item, Sum, C, types, depth, flags, "192", 96, NUMBERS_32_0 "," NUMBERS_32_1 "," NUMBERS_32_2, "%96", "%97", "%98",    \
               OPERANDS_32(C, sum, 0), OPERANDS_32(C, sum, 32), OPERANDS_32(C, sum, 64))                                      \
  DEFINE_WGMMA(Item, Sum, C, types, depth, flags, "256", 128, NUMBERS_32_0 "," NUMBERS_32_1 "," NUMBERS_32_2 "," NUMBERS_32_3,       \
               "%128", "%129", "%130", OPERANDS_32(C, sum, 0), OPERANDS_32(C, sum, 32), OPERANDS_32(C, sum, 64),              \
               OPERANDS_32(C, sum, 96))

#define FLOAT_OPERAND "+f"
#define INT_OPERAND "+r"
DEFINE_WGMMAS(bf16, float, FLOAT_OPERAND, "f32.bf16.bf16", "k16.", ", 1, 1, 0, 0")
DEFINE_WGMMAS(fp16, float, FLOAT_OPERAND, "f32.f16.f16", "k16.", ", 1, 1, 0, 0")
DEFINE_WGMMAS(e4m3, float, FLOAT_OPERAND, "f32.e4m3.e4m3", "k32.", ", 1, 1")
DEFINE_WGMMAS(int8, int, INT_OPERAND, "s32.s8.s8", "k32.", "")
