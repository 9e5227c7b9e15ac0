// attention for any type and head size: a block per token and head, each warp takes every fourth key. For float32, and for
// shapes that the tensor-core kernels lack. X: the queries' type, C: the cache's, W: the sinks'. LATENT: multi-head latent
// attention, where a token's value is also the rest of its key.
#include "attention-output.cuh"
#include "attention-score.cuh"
#include "kv-tile.cuh"

constexpr int kWarps = 4;
constexpr int kLaneValues = (VALUE_HEAD_DIM + 31) / 32;

__device__ __forceinline__ int sequence_of(int token, const int* cu_seqlens_q, int num_seqs) {
  int low = 0, high = num_seqs - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (cu_seqlens_q[middle] <= token) low = middle; else high = middle - 1;
  }
  return low;
}

extern "C" __global__ void __launch_bounds__(kWarps * 32)
    attention(const int* num_tokens, const int* num_seqs, const X* q, i64 q_stride, Y* y, i64 y_stride, const C* keys,
              const C* values, const float* y_calibrated, int num_y_calibrated, float* y_scales, i64 y_scales_stride,
              const int* block_tables, const int* max_blocks_per_seq, const int* cu_seqlens_q,
              const int* context_lens, const float* slopes, const W* sinks, int num_heads, int num_kv_heads,
              float scale, float softcap, int window, const X* latent_q, i64 latent_q_stride) {
  __shared__ float query[HEAD_DIM + LATENT * VALUE_HEAD_DIM];
  __shared__ float sums[kWarps][VALUE_HEAD_DIM];
  __shared__ float largest[kWarps], totals[kWarps];
  const int token = blockIdx.x, head = blockIdx.y;
  if (token >= *num_tokens) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int seq = sequence_of(token, cu_seqlens_q, *num_seqs);
  const int position = context_lens[seq] - (cu_seqlens_q[seq + 1] - token);
  const int* block_table = block_tables + i64(seq) * *max_blocks_per_seq;
  const int kv_head = head / (num_heads / num_kv_heads);
  const ScoreRule rule{scale, softcap, ALIBI ? slopes[head] : 0.0f, window};
  for (int d = threadIdx.x; d < HEAD_DIM; d += blockDim.x) query[d] = to_float(q[token * q_stride + head * HEAD_DIM + d]);
#if LATENT
  for (int d = threadIdx.x; d < VALUE_HEAD_DIM; d += blockDim.x)
    query[HEAD_DIM + d] = to_float(latent_q[token * latent_q_stride + head * VALUE_HEAD_DIM + d]);
#endif
  __syncthreads();

  float sum[kLaneValues] = {}, top = -INFINITY, total = 0.0f;
  for (int key = rule.first_visible(position) + warp; key <= position; key += kWarps) {
    const i64 block = block_table[key / BLOCK_SIZE];
    const int row = key % BLOCK_SIZE;
    const C* k = keys + head_start<C>(block, kv_head, num_kv_heads, HEAD_DIM);
    const C* v = values + head_start<C>(block, kv_head, num_kv_heads, VALUE_HEAD_DIM);
    const float value_scale = row_scale(v, row, VALUE_HEAD_DIM);
    float product = 0.0f;
    for (int d = lane; d < HEAD_DIM; d += 32) product += query[d] * to_float(k[element_at<C>(row, d, HEAD_DIM)]);
    product *= row_scale(k, row, HEAD_DIM);
#if LATENT
    float latent_product = 0.0f;
    for (int d = lane; d < VALUE_HEAD_DIM; d += 32)
      latent_product += query[HEAD_DIM + d] * to_float(v[element_at<C>(row, d, VALUE_HEAD_DIM)]);
    product += latent_product * value_scale;
#endif
    const float score = rule.score(reduce_warp(product, Sum()), position - key) * rule.unit();
    const float new_top = fmaxf(top, score);
    const float keep = exp2f(top - new_top), weight = exp2f(score - new_top);
#pragma unroll
    for (int i = 0; i < kLaneValues; i++) {
      const int d = lane + 32 * i;
      if (d < VALUE_HEAD_DIM)
        sum[i] = sum[i] * keep + weight * value_scale * to_float(v[element_at<C>(row, d, VALUE_HEAD_DIM)]);
    }
    total = total * keep + weight;
    top = new_top;
  }

#pragma unroll
  for (int i = 0; i < kLaneValues; i++)
    if (lane + 32 * i < VALUE_HEAD_DIM) sums[warp][lane + 32 * i] = sum[i];
  if (lane == 0) largest[warp] = top, totals[warp] = total;
  __syncthreads();
  const float sink = sinks ? to_float(sinks[head]) * kLog2E : -INFINITY;
  const Output output{y, y_stride, y_calibrated, num_y_calibrated, y_scales, y_scales_stride};
  float overall = sink;
  for (int w = 0; w < kWarps; w++) overall = fmaxf(overall, largest[w]);
  for (int d = threadIdx.x; d < VALUE_HEAD_DIM; d += blockDim.x) {
    float value = 0.0f, weight = exp2f(sink - overall);
    for (int w = 0; w < kWarps; w++) {
      const float share = exp2f(largest[w] - overall);
      value += share * sums[w][d];
      weight += share * totals[w];
    }
    output.put(token, head, d, {value / weight});
  }
}
