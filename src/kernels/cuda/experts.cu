// Mixture of experts: choosing them, their products by a plain kernel, and the weighted sum of their answers. X: the activations'
// type, W: the weights', VEC: elements per access.
#include "gated-sum.cuh"

constexpr int kMaxExperts = 1024, kMaxGroups = 64;

/// Place of the largest of `size` values, of equal ones the first; the same for the whole warp. Marks it taken.
__device__ __forceinline__ int take_largest(float* values, int size) {
  const int lane = threadIdx.x;
  float best = -INFINITY;
  int place = size;
  for (int i = lane; i < size; i += 32)
    if (values[i] > best || place == size) best = values[i], place = i;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, best, distance);
    const int other_place = __shfl_xor_sync(0xffffffffu, place, distance);
    if (other_place < size && (place == size || other > best || (other == best && other_place < place)))
      best = other, place = other_place;
  }
  __syncwarp();  // Shuffles order no memory.
  if (lane == 0) values[place] = -INFINITY;
  __syncwarp();
  return place;
}

/// One warp per token.
extern "C" __global__ void __launch_bounds__(32)
    route_experts(const int* num_rows, const X* logits, i64 logits_stride, const W* correction, X* weights,
                  i64 weights_stride, int* ids, i64 ids_stride, int num_experts, int experts_per_token, int is_softmax,
                  int normalize, float scale, int num_groups, int groups_selected, int two_best) {
  __shared__ float scores[kMaxExperts], corrected[kMaxExperts], group_scores[kMaxGroups];
  __shared__ int is_selected[kMaxGroups], chosen[kMaxExperts];
  const i64 token = blockIdx.x;
  let_next_start();
  wait_for_previous();
  if (token >= *num_rows) return;
  const int lane = threadIdx.x;
  const X* row = logits + token * logits_stride;
  float most = -INFINITY, sum = 0.0f;
  for (int i = lane; i < num_experts; i += 32) most = fmaxf(most, to_float(row[i]));
  most = reduce_warp(most, Max());
  for (int i = lane; i < num_experts; i += 32) {
    const float x = to_float(row[i]);
    scores[i] = is_softmax ? expf(x - most) : 1.0f / (1.0f + expf(-x));
    sum += scores[i];
  }
  sum = reduce_warp(sum, Sum());
  for (int i = lane; i < num_experts; i += 32) {
    if (is_softmax) scores[i] /= sum;
    corrected[i] = scores[i] + (correction ? to_float(correction[i]) : 0.0f);
  }
  __syncwarp();

  if (num_groups > 1) {
    const int size = num_experts / num_groups;
    for (int group = lane; group < num_groups; group += 32) {
      float best = -INFINITY, second = -INFINITY;
      for (int i = group * size; i < (group + 1) * size; i++) {
        second = fmaxf(second, fminf(best, corrected[i]));
        best = fmaxf(best, corrected[i]);
      }
      group_scores[group] = best + (two_best && size > 1 ? second : 0.0f);
      is_selected[group] = 0;
    }
    __syncwarp();
    for (int i = 0; i < groups_selected; i++) {
      const int group = take_largest(group_scores, num_groups);
      if (lane == 0) is_selected[group] = 1;
    }
    __syncwarp();
    for (int i = lane; i < num_experts; i += 32)
      if (!is_selected[i / size]) corrected[i] = -INFINITY;
    __syncwarp();
  }

  float total = 1e-20f;
  for (int i = 0; i < experts_per_token; i++) {
    const int expert = take_largest(corrected, num_experts);
    total += scores[expert];
    if (lane == 0) chosen[i] = expert;
  }
  __syncwarp();
  const float factor = normalize ? scale / total : scale;
  for (int i = lane; i < experts_per_token; i += 32) {
    weights[token * weights_stride + i] = from_float<X>(scores[chosen[i]] * factor);
    ids[token * ids_stride + i] = chosen[i];
  }
}

/// A warp per output; grid [tokens · slots, outputs / 8]. Without `ids` slot s takes matrix s.
extern "C" __global__ void __launch_bounds__(256)
    grouped_linear(const int* num_rows, const X* x, i64 x_stride, const W* weight, const int* ids, i64 ids_stride,
                   const W* bias, X* y, i64 y_stride, int slots, int inputs, int outputs, int x_columns_per_slot) {
  const i64 token = blockIdx.x / slots;
  const int slot = blockIdx.x % slots, output = blockIdx.y * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  let_next_start();
  wait_for_previous();
  if (token >= *num_rows || output >= outputs) return;
  const i64 row = i64(ids ? ids[token * ids_stride + slot] : slot) * kHalves * outputs + output;
  const X* from = x + token * x_stride + slot * x_columns_per_slot;
  float sum[kHalves] = {};
  for (int k = lane * VEC; k < inputs; k += 32 * VEC) {
    const Vec<X, VEC> a = load<VEC>(from + k);
#pragma unroll
    for (int half = 0; half < kHalves; half++) {
      const Vec<W, VEC> b = load<VEC>(weight + (row + half * outputs) * inputs + k);
#pragma unroll
      for (int j = 0; j < VEC; j++) sum[half] += to_float(a.at[j]) * to_float(b.at[j]);
    }
  }
  const float result = gated_sum(sum, bias, row, outputs);
  if (lane == 0) y[token * y_stride + slot * outputs + output] = from_float<X>(result);
}

/// y = Σ weights[e] · columns of expert e; grid [tokens, chunks].
extern "C" __global__ void combine_experts(const int* num_rows, const X* x, i64 x_stride, const X* weights,
                                           i64 weights_stride, X* y, i64 y_stride, int num_experts, int columns) {
  const i64 token = blockIdx.x;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * VEC;
  let_next_start();
  wait_for_previous();
  if (token >= *num_rows || column >= columns) return;
  float sum[VEC] = {};
  for (int e = 0; e < num_experts; e++) {
    const float weight = to_float(weights[token * weights_stride + e]);
    const Vec<X, VEC> values = load<VEC>(x + token * x_stride + e * columns + column);
#pragma unroll
    for (int j = 0; j < VEC; j++) sum[j] += weight * to_float(values.at[j]);
  }
  Vec<X, VEC> result;
#pragma unroll
  for (int j = 0; j < VEC; j++) result.at[j] = from_float<X>(sum[j]);
  store<VEC>(y + token * y_stride + column, result);
}
