// Part of a weight of floats, as a checkpoint stores it, becomes scales and codes: what compiler/pack-weight.ts does, to the last
// bit. SOURCE: the tensor's type, CODES: of the weight; HAS_ZEROS: 1 for pairs (scale, zero); uint4 codes in the evenOdd layout.
#include "quantize.cuh"

struct Part {
  const SOURCE* source;
  i64 row_step, column_step;
  int rows, columns, group_size;

  __device__ __forceinline__ float at(int row, int column) const {
    return to_float(source[row * row_step + column * column_step]);
  }
};

template <typename Codes> __device__ __forceinline__ u32 encode_weight(float ratio, float) { return encode<Codes>(ratio).bits; }
template <> __device__ __forceinline__ u32 encode_weight<uint4_codes>(float ratio, float zero) {
  return u32(fminf(fmaxf(rintf(ratio) + zero, 0.0f), 15.0f));
}

template <typename Codes> __device__ __forceinline__ int column_at(int place) { return place; }
template <> __device__ __forceinline__ int column_at<uint4_codes>(int place) { return even_odd_column(place); }

#define PART const SOURCE *source, i64 row_step, i64 column_step, int rows, int columns, int group_size

/// A warp per group. `bad` counts groups without a finite scale.
extern "C" __global__ void __launch_bounds__(256) weight_scales(PART, float* scales, int* bad) {
  const Part part{source, row_step, column_step, rows, columns, group_size};
  const int num_groups = columns / group_size, lane = threadIdx.x % 32;
  const i64 group = blockIdx.x * 8ll + threadIdx.x / 32;
  if (group >= i64(rows) * num_groups) return;
  const int row = group / num_groups, start = group % num_groups * group_size;
  float low = 0.0f, high = 0.0f, absmax = 0.0f;
  for (int i = lane; i < group_size; i += 32) {
    const float value = part.at(row, start + i);
    low = fminf(low, value), high = fmaxf(high, value);
    absmax = MaxMagnitude()(absmax, fabsf(value));
  }
  absmax = reduce_warp(absmax, MaxMagnitude());
  high = reduce_warp(high, Max()), low = -reduce_warp(-low, Max());
  if (lane > 0) return;
  if (!(absmax < INFINITY)) atomicAdd(bad, 1);
#if HAS_ZEROS
  float scale = (high - low) / 15.0f;
  if (scale == 0.0f) scale = 1.0f;
  scales[2 * group] = scale;
  scales[2 * group + 1] = rintf(-low / scale) + 0.0f;  // Never -0.
#else
  scales[group] = scale_of<CODES>(absmax);
#endif
}

/// A thread per byte.
extern "C" __global__ void __launch_bounds__(256) weight_codes(PART, const float* scales, u8* codes) {
  const Part part{source, row_step, column_step, rows, columns, group_size};
  const i64 byte = blockIdx.x * 256ll + threadIdx.x;
  if (byte * kCodesPerByte<CODES> >= i64(rows) * columns) return;
  u32 bits = 0;
#pragma unroll
  for (int i = 0; i < kCodesPerByte<CODES>; i++) {
    const i64 place = byte * kCodesPerByte<CODES> + i;
    const int row = place / columns, column = column_at<CODES>(place % columns);
    const i64 group = row * i64(columns / group_size) + column / group_size;
    const float ratio = part.at(row, column) / scales[HAS_ZEROS ? 2 * group : group];
    bits |= encode_weight<CODES>(ratio, HAS_ZEROS ? scales[2 * group + 1] : kImpliedZero<CODES>) << 4 * i;
  }
  codes[byte] = bits;
}
