// rope, kvWrite and their fusion: a thread turns VEC pairs of a head's columns, or copies VEC columns that do not turn.
// X: the activations' type, C: the cache's, INTERLEAVED: pairs are neighbours. A layer's cache holds keys, then values, as
// kv-tile.cuh says.
#include "kv-tile.cuh"

/// Pieces of a head of `head_dim` columns, of which the first `rotary_dim` turn.
__device__ __forceinline__ int num_pieces(int head_dim, int rotary_dim) { return (head_dim - rotary_dim / 2) / VEC; }

template <typename T> __device__ __forceinline__ void put(T* target, const float (&values)[VEC]) {
  Vec<T, VEC> rounded;
#pragma unroll
  for (int j = 0; j < VEC; j++) rounded.at[j] = from_float<T>(values[j]);
  store<VEC>(target, rounded);
}

/// f(first column, VEC values) takes the results.
template <typename F>
__device__ __forceinline__ void rotate_piece(const X* head, int piece, int rotary_dim, const float* angles, F f) {
  const int pairs = rotary_dim / 2, pair = piece * VEC;
  float low[VEC], high[VEC];
  if (pair >= pairs) {
    const Vec<X, VEC> same = load<VEC>(head + pairs + pair);
#pragma unroll
    for (int j = 0; j < VEC; j++) low[j] = to_float(same.at[j]);
    f(pairs + pair, low);
    return;
  }
  const int first = INTERLEAVED ? 2 * pair : pair, second = INTERLEAVED ? first + VEC : pair + pairs;
  const Vec<X, VEC> a = load<VEC>(head + first), b = load<VEC>(head + second);
  const Vec<float, VEC> cos = load<VEC>(angles + pair), sin = load<VEC>(angles + pairs + pair);
  const auto from = [&](int i) { return to_float(i < VEC ? a.at[i] : b.at[i - VEC]); };
  const auto to = [&](int i) -> float& { return i < VEC ? low[i] : high[i - VEC]; };
#pragma unroll
  for (int j = 0; j < VEC; j++) {
    const int i = INTERLEAVED ? 2 * j : j, k = INTERLEAVED ? 2 * j + 1 : j + VEC;
    to(i) = from(i) * cos.at[j] - from(k) * sin.at[j];
    to(k) = from(k) * cos.at[j] + from(i) * sin.at[j];
  }
  f(first, low);
  f(second, high);
}

/// Of one head's rows in a slot's block, where VEC columns of the slot's row go.
__device__ __forceinline__ C* place_of(C* cache, int slot, int head, int num_heads, int head_dim, int column) {
  C* rows = cache + head_start(slot / BLOCK_SIZE, head, num_heads, head_dim);
  return rows + element_at<C>(slot % BLOCK_SIZE, column, head_dim);
}

/// Grid [tokens, chunks of a token's pieces].
extern "C" __global__ void rope(const int* num_rows, const X* x, i64 x_stride, X* y, i64 y_stride, const int* positions,
                                const float* table, int num_heads, int head_dim, int rotary_dim) {
  const i64 token = blockIdx.x;
  const int rows = *num_rows, pieces = num_pieces(head_dim, rotary_dim), i = blockIdx.y * blockDim.x + threadIdx.x;
  const float* angles = table + i64(positions[token]) * rotary_dim;
  let_next_start();
  wait_for_previous();
  if (token >= rows || i >= num_heads * pieces) return;
  const int at = i / pieces * head_dim;
  rotate_piece(x + token * x_stride + at, i % pieces, rotary_dim, angles,
               [&](int column, const float (&values)[VEC]) { put(y + token * y_stride + at + column, values); });
}

/// Grid [tokens, chunks of a token's pieces]: of query heads, of keys, of values. Without a table keys are stored as they are
/// and there are no queries.
extern "C" __global__ void rope_kv_write(const int* num_rows, const X* q, i64 q_stride, X* y, i64 y_stride, const X* k,
                                         i64 k_stride, const X* v, i64 v_stride, const int* positions, const int* slots,
                                         const float* table, C* keys, C* values, int num_heads, int num_kv_heads,
                                         int head_dim, int value_head_dim, int rotary_dim) {
  const i64 token = blockIdx.x;
  const int rows = *num_rows, slot = slots[token], pieces = num_pieces(head_dim, rotary_dim);
  const float* angles = table ? table + i64(positions[token]) * rotary_dim : nullptr;
  let_next_start();
  wait_for_previous();
  if (token >= rows) return;
  int i = blockIdx.y * blockDim.x + threadIdx.x, head = i / pieces;
  if (head < num_heads) {
    const int at = head * head_dim;
    rotate_piece(q + token * q_stride + at, i % pieces, rotary_dim, angles,
                 [&](int column, const float (&turned)[VEC]) { put(y + token * y_stride + at + column, turned); });
    return;
  }
  head -= num_heads;
  if (head < num_kv_heads) {
    rotate_piece(k + token * k_stride + head * head_dim, i % pieces, rotary_dim, angles,
                 [&](int column, const float (&turned)[VEC]) {
                   put(place_of(keys, slot, head, num_kv_heads, head_dim, column), turned);
                 });
    return;
  }
  i -= (num_heads + num_kv_heads) * pieces;
  const int value_pieces = num_pieces(value_head_dim, 0);
  head = i / value_pieces;
  if (head >= num_kv_heads) return;
  rotate_piece(v + token * v_stride + head * value_head_dim, i % value_pieces, 0, nullptr,
               [&](int column, const float (&same)[VEC]) {
                 put(place_of(values, slot, head, num_kv_heads, value_head_dim, column), same);
               });
}
