// Part of a weight of uint4 codes, cut out of a tensor whose rows are `source_columns` codes long, in the evenOdd layout. A thread
// per word of eight codes.
#include "dequantize.cuh"

extern "C" __global__ void __launch_bounds__(256)
    pack_nibbles(const u8* source, u32* target, i64 first, i64 row_step, int rows, int columns) {
  const i64 word = blockIdx.x * 256ll + threadIdx.x;
  if (word * 8 >= i64(rows) * columns) return;
  const i64 row = word * 8 / columns, start = first + row * row_step;
  const int column = word * 8 % columns;
  u32 bits = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const i64 place = start + even_odd_column(column + i);
    bits |= u32(source[place / 2] >> place % 2 * 4 & 15) << 4 * i;
  }
  target[word] = bits;
}
