// quantize: groups of columns of x become codes and a scale, or a whole row does; alone or after gatedActivation (OP: its function).
// A block of THREADS takes row after row of a group, the next of which is on its way meanwhile; a thread keeps its PIECES pieces of VEC
// elements in registers, so that x is read once. X: type of x, CODE: of the codes.
#include "activations.cuh"
#include "quantize.cuh"

/// A thread's share of a row.
struct Share {
  Packed<X, VEC> own[PIECES];
#ifdef OP
  Packed<X, VEC> up[PIECES];
#endif

  /// Calls f(piece, first column).
  template <typename F> static __device__ __forceinline__ void each(int group_size, F f) {
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
      const int i = (piece * THREADS + threadIdx.x) * VEC;
      if (i < group_size) f(piece, i);
    }
  }

  __device__ __forceinline__ void fetch(const X* x, int group_size) {
    each(group_size, [&](int piece, int i) {
      own[piece].read(x + i);
#ifdef OP
      up[piece].read(x + group_size + i);
#endif
    });
  }

  /// What is to be quantized of a piece.
  __device__ __forceinline__ Packed<X, VEC> piece_of(int piece) const {
#ifdef OP
    const Vec<X, VEC> gate = own[piece].elements(), other = up[piece].elements();
    Vec<X, VEC> gated;
#pragma unroll
    for (int j = 0; j < VEC; j++) gated.at[j] = from_float<X>(OP(to_float(gate.at[j]), 0.0f, 0.0f) * to_float(other.at[j]));
    Packed<X, VEC> result;
    result.set(gated);
    return result;
#else
    return own[piece];
#endif
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    quantize(const int* num_rows, const X* x, i64 x_stride, const float* static_scales, int num_static, CODE* codes,
             i64 codes_stride, float* scales, i64 scales_stride, int group_size) {
  const int rows = *num_rows, start = blockIdx.y * group_size;
  let_next_start();
  wait_for_previous();
  x += start;
  codes += start;
  Share next;
  i64 row = blockIdx.x;
  if (row < rows) next.fetch(x + row * x_stride, group_size);
  for (; row < rows; row += gridDim.x) {
    Packed<X, VEC> own[PIECES];
    float absmax = 0.0f;
    Share::each(group_size, [&](int piece, int) {
      own[piece] = next.piece_of(piece);
#pragma unroll
      for (int j = 0; j < VEC; j++) absmax = MaxMagnitude()(absmax, fabsf(to_float(own[piece].elements().at[j])));
    });
    if (row + gridDim.x < rows) next.fetch(x + (row + gridDim.x) * x_stride, group_size);
    const float scale = static_scales ? largest(static_scales, num_static)
                                      : scale_of<CODE>(reduce_block(absmax, 0.0f, MaxMagnitude()));
    if (threadIdx.x == 0) scales[row * scales_stride + blockIdx.y] = scale;
    const Divisor divisor(scale);
    Share::each(group_size, [&](int piece, int i) {
      float values[VEC];
#pragma unroll
      for (int j = 0; j < VEC; j++) values[j] = to_float(own[piece].elements().at[j]);
      store<VEC>(codes + row * codes_stride + i, encode<CODE>(values, divisor));
    });
  }
}
