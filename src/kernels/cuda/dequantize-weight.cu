// A weight of codes as 16-bit numbers, for a product that wants them. CODES: of the weight; T: of the numbers. Rows and groups are
// multiples of eight columns, uint4 codes in the evenOdd layout.
#include "dequantize.cuh"

constexpr int kColumns = 8;

/// Eight codes as the numbers they are, from 8 bytes, or 4 of uint4.
template <typename Codes> __device__ __forceinline__ void decode(const Codes* at, float (&values)[kColumns]) {
  const Vec<Codes, kColumns> codes = load<kColumns>(at);
#pragma unroll
  for (int i = 0; i < kColumns; i++) values[i] = to_float(codes.at[i]);
}
template <> __device__ __forceinline__ void decode(const uint4_codes* at, float (&values)[kColumns]) {
  const u32 word = *reinterpret_cast<const u32*>(at);
#pragma unroll
  for (int i = 0; i < kColumns; i++) values[i] = float(word >> (i / 2 * 4 + i % 2 * 16) & 15);
}

/// Grid [rows, column chunks of 2048].
extern "C" __global__ void __launch_bounds__(256)
    dequantize_weight(const CODES* codes, const float* scales, T* target, int columns, int group_size, int has_zeros) {
  const int column = (blockIdx.y * 256 + threadIdx.x) * kColumns;
  if (column >= columns) return;
  const i64 row = blockIdx.x, first = row * columns + column;
  const i64 group = row * (columns / group_size) + column / group_size;
  const float scale = scales[has_zeros ? 2 * group : group], zero = has_zeros ? scales[2 * group + 1] : kImpliedZero<CODES>;
  float values[kColumns];
  decode(codes + first / kCodesPerByte<CODES>, values);
  Vec<T, kColumns> result;
#pragma unroll
  for (int i = 0; i < kColumns; i++) result.at[i] = from_float<T>((values[i] - zero) * scale);
  store(target + first, result);
}
