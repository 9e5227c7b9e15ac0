// rope, kvWrite and their fusion: one block per token and head. X: the activations' type, C: the cache's, INTERLEAVED: pairs
// are neighbours. A layer's cache holds keys [numBlocks, numKvHeads, BLOCK_SIZE, keyHeadDim], then values likewise.
#include "common.cuh"

/// Turns the first `rotary_dim` columns of a head; f(column, value) takes the results. A pair belongs to one thread.
template <typename F>
__device__ __forceinline__ void rotate_head(const X* head, int head_dim, int rotary_dim, const float* angles, F f) {
  const int pairs = rotary_dim / 2;
  for (int i = threadIdx.x; i < pairs + head_dim - rotary_dim; i += blockDim.x) {
    if (i >= pairs) {
      f(pairs + i, to_float(head[pairs + i]));
      continue;
    }
    const int first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? 2 * i + 1 : i + pairs;
    const float a = to_float(head[first]), b = to_float(head[second]);
    const float cos = angles[i], sin = angles[pairs + i];
    f(first, a * cos - b * sin);
    f(second, b * cos + a * sin);
  }
}

__device__ __forceinline__ void rotate_to(X* target, const X* head, int head_dim, int rotary_dim, const float* angles) {
  rotate_head(head, head_dim, rotary_dim, angles, [&](int i, float value) { target[i] = from_float<X>(value); });
}

__device__ __forceinline__ C* cache_row(C* cache, int slot, int head, int num_heads, int head_dim) {
  const i64 block = slot / BLOCK_SIZE;
  return cache + ((block * num_heads + head) * BLOCK_SIZE + slot % BLOCK_SIZE) * head_dim;
}

/// Grid [tokens, heads].
extern "C" __global__ void rope(const int* num_rows, const X* x, i64 x_stride, X* y, i64 y_stride, const int* positions,
                                const float* table, int head_dim, int rotary_dim) {
  const i64 token = blockIdx.x;
  if (token >= *num_rows) return;
  const float* angles = table + i64(positions[token]) * rotary_dim;
  const int at = blockIdx.y * head_dim;
  rotate_to(y + token * y_stride + at, x + token * x_stride + at, head_dim, rotary_dim, angles);
}

/// Grid [tokens, query heads + 2 · key heads]; without a table keys are stored as they are and there are no queries.
extern "C" __global__ void rope_kv_write(const int* num_rows, const X* q, i64 q_stride, X* y, i64 y_stride, const X* k,
                                         i64 k_stride, const X* v, i64 v_stride, const int* positions, const int* slots,
                                         const float* table, C* keys, C* values, int num_heads, int num_kv_heads,
                                         int head_dim, int value_head_dim, int rotary_dim) {
  const i64 token = blockIdx.x;
  if (token >= *num_rows) return;
  const float* angles = table ? table + i64(positions[token]) * rotary_dim : nullptr;
  int head = blockIdx.y;
  if (head < num_heads) {
    const int at = head * head_dim;
    rotate_to(y + token * y_stride + at, q + token * q_stride + at, head_dim, rotary_dim, angles);
    return;
  }
  head -= num_heads;
  if (head < num_kv_heads) {
    C* target = cache_row(keys, slots[token], head, num_kv_heads, head_dim);
    rotate_head(k + token * k_stride + head * head_dim, head_dim, rotary_dim, angles,
                [&](int i, float value) { target[i] = from_float<C>(value); });
    return;
  }
  head -= num_kv_heads;
  C* target = cache_row(values, slots[token], head, num_kv_heads, value_head_dim);
  const X* source = v + token * v_stride + head * value_head_dim;
  for (int i = threadIdx.x; i < value_head_dim; i += blockDim.x) target[i] = from_float<C>(to_float(source[i]));
}
