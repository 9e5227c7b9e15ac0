// rope, kvWrite and their fusion: LANES neighbouring threads work on a head; at a time each turns VEC pairs of columns, or
// copies VEC columns that do not turn. X: the activations' type, C: the cache's, INTERLEAVED: pairs are neighbours. A layer's
// cache holds keys, then values, as kv-tile.cuh says.
#include "kv-tile.cuh"
#include "quantize.cuh"

template <> __device__ __forceinline__ e4m3 from_float<e4m3>(float x) { return encode<e4m3>(x); }
template <> __device__ __forceinline__ int8 from_float<int8>(float x) { return encode<int8>(x); }

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

/// The thread's pieces of a head: f(first column, VEC values).
template <typename F>
__device__ __forceinline__ void rotate_head(const X* head, int head_dim, int rotary_dim, const float* angles, F f) {
  for (int piece = threadIdx.x % LANES; piece < num_pieces(head_dim, rotary_dim); piece += LANES)
    rotate_piece(head, piece, rotary_dim, angles, f);
}

/// Over the threads of a head.
template <typename F> __device__ __forceinline__ float reduce_head(float value, F f) {
  const u32 threads = (LANES == 32 ? 0u : 1u << LANES % 32) - 1 << threadIdx.x % 32 / LANES * LANES;
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) value = f(value, __shfl_xor_sync(threads, value, distance));
  return value;
}

/// Numbers of one size's heads on their way to the rows of a slot.
struct CacheRow {
  C* rows;  // of all slots of the block
  int row, head_dim;

  __device__ __forceinline__ CacheRow(C* cache, int slot, int head, int num_heads, int head_dim)
      : rows(cache + head_start<C>(slot / BLOCK_SIZE, head, num_heads, head_dim)),
        row(slot % BLOCK_SIZE),
        head_dim(head_dim) {}

  __device__ __forceinline__ void write(const X* head, int rotary_dim, const float* angles) const {
    float divisor = 1.0f;
    if constexpr (kScaleBytes<C> > 0) divisor = write_scale(head, rotary_dim, angles);
    rotate_head(head, head_dim, rotary_dim, angles, [&](int column, float (&values)[VEC]) {
#pragma unroll
      for (int j = 0; j < VEC && kScaleBytes<C> > 0; j++) values[j] /= divisor;
      put(rows + element_at<C>(row, column, head_dim), values);
    });
  }

  /// What numbers are to be divided by.
  __device__ __forceinline__ float write_scale(const X* head, int rotary_dim, const float* angles) const {
    float absmax = 0.0f;
    rotate_head(head, head_dim, rotary_dim, angles, [&](int, const float (&values)[VEC]) {
#pragma unroll
      for (int j = 0; j < VEC; j++) absmax = MaxMagnitude()(absmax, fabsf(values[j]));
    });
    const fp16 scale = from_float<fp16>(reduce_head(absmax, MaxMagnitude()) / kLargestCode<C>);
    u8* bytes = reinterpret_cast<u8*>(rows + scale_at<C>(row, head_dim));
    if (threadIdx.x % LANES < 2) bytes[threadIdx.x % LANES] = u8(scale.bits >> threadIdx.x % LANES * 8);
    return to_float(scale) == 0.0f ? INFINITY : to_float(scale);
  }
};

/// Grid [tokens, chunks of a token's heads].
extern "C" __global__ void rope(const int* num_rows, const X* x, i64 x_stride, X* y, i64 y_stride, const int* positions,
                                const float* table, int num_heads, int head_dim, int rotary_dim) {
  const i64 token = blockIdx.x;
  const int rows = *num_rows, head = (blockIdx.y * blockDim.x + threadIdx.x) / LANES;
  const float* angles = table + i64(positions[token]) * rotary_dim;
  let_next_start();
  wait_for_previous();
  if (token >= rows || head >= num_heads) return;
  const int at = head * head_dim;
  rotate_head(x + token * x_stride + at, head_dim, rotary_dim, angles,
              [&](int column, const float (&values)[VEC]) { put(y + token * y_stride + at + column, values); });
}

/// Grid [tokens, chunks of a token's heads]: of queries, of keys, of values. Without a table keys are stored as they are and
/// there are no queries.
extern "C" __global__ void rope_kv_write(const int* num_rows, const X* q, i64 q_stride, X* y, i64 y_stride, const X* k,
                                         i64 k_stride, const X* v, i64 v_stride, const int* positions, const int* slots,
                                         const float* table, C* keys, C* values, int num_heads, int num_kv_heads,
                                         int head_dim, int value_head_dim, int rotary_dim) {
  const i64 token = blockIdx.x;
  const int rows = *num_rows, slot = slots[token];
  const float* angles = table ? table + i64(positions[token]) * rotary_dim : nullptr;
  let_next_start();
  wait_for_previous();
  if (token >= rows) return;
  int head = (blockIdx.y * blockDim.x + threadIdx.x) / LANES;
  if (head < num_heads) {
    const int at = head * head_dim;
    rotate_head(q + token * q_stride + at, head_dim, rotary_dim, angles,
                [&](int column, const float (&turned)[VEC]) { put(y + token * y_stride + at + column, turned); });
    return;
  }
  head -= num_heads;
  if (head < num_kv_heads) {
    const CacheRow target(keys, slot, head, num_kv_heads, head_dim);
    target.write(k + token * k_stride + head * head_dim, rotary_dim, angles);
    return;
  }
  head -= num_kv_heads;
  if (head >= num_kv_heads) return;
  const CacheRow target(values, slot, head, num_kv_heads, value_head_dim);
  target.write(v + token * v_stride + head * value_head_dim, 0, nullptr);
}
