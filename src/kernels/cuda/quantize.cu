// quantize: groups of columns of x become codes and a scale, or a whole row does; alone or after gatedActivation (OP: its function).
// A block per row and group; a thread keeps its PIECES pieces of VEC elements in registers, so that x is read once. X: type of x,
// CODE: of the codes.
#include "activations.cuh"
#include "quantize.cuh"

extern "C" __global__ void __launch_bounds__(512)
    quantize(const int* num_rows, const X* x, i64 x_stride, const float* static_scales, int num_static,
                                    CODE* codes, i64 codes_stride, float* scales, i64 scales_stride, int group_size) {
  const i64 row = blockIdx.x;
  const int rows = *num_rows;
  let_next_start();
  wait_for_previous();
  if (row >= rows) return;
  const int start = blockIdx.y * group_size;
  x += row * x_stride + start;
  codes += row * codes_stride + start;
  // Everything is on its way before the first number is looked at.
  Vec<X, VEC> own[PIECES];
#ifdef OP
  Vec<X, VEC> up[PIECES];
#endif
#pragma unroll
  for (int piece = 0; piece < PIECES; piece++) {
    const int i = (piece * blockDim.x + threadIdx.x) * VEC;
    if (i >= group_size) continue;
    own[piece] = load<VEC>(x + i);
#ifdef OP
    up[piece] = load<VEC>(x + group_size + i);
#endif
  }
  float values[PIECES][VEC], absmax = 0.0f;
#pragma unroll
  for (int piece = 0; piece < PIECES; piece++) {
    if ((piece * blockDim.x + threadIdx.x) * VEC >= group_size) continue;
#pragma unroll
    for (int j = 0; j < VEC; j++) {
#ifdef OP
      const float gated = OP(to_float(own[piece].at[j]), 0.0f, 0.0f) * to_float(up[piece].at[j]);
      values[piece][j] = to_float(from_float<X>(gated));
#else
      values[piece][j] = to_float(own[piece].at[j]);
#endif
      absmax = MaxMagnitude()(absmax, fabsf(values[piece][j]));
    }
  }
  const float scale = static_scales ? largest(static_scales, num_static)
                                    : scale_of<CODE>(reduce_block(absmax, 0.0f, MaxMagnitude()));
  if (threadIdx.x == 0) scales[row * scales_stride + blockIdx.y] = scale;
  const Divisor divisor(scale);
#pragma unroll
  for (int piece = 0; piece < PIECES; piece++) {
    const int i = (piece * blockDim.x + threadIdx.x) * VEC;
    if (i >= group_size) break;
    Vec<CODE, VEC> result;
#pragma unroll
    for (int j = 0; j < VEC; j++) result.at[j] = encode<CODE>(divisor.of(values[piece][j]));
    store<VEC>(codes + i, result);
  }
}
