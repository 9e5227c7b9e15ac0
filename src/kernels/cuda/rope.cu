// rope, kvWrite and their fusion: LANES neighbouring threads work on a head; at a time each turns VEC pairs of columns, or
// copies VEC columns that do not turn. X: the activations' type, C: the cache's, INTERLEAVED: pairs are neighbours. A head of
// queries or keys has HEAD_DIM columns, of which the first ROTARY_DIM turn. A layer's cache holds keys, then values, as
// kv-tile.cuh says.
#include "kv-tile.cuh"
#include "quantize.cuh"

template <> __device__ __forceinline__ e4m3 from_float<e4m3>(float x) { return encode<e4m3>(x); }
template <> __device__ __forceinline__ int8 from_float<int8>(float x) { return encode<int8>(x); }

template <typename T> __device__ __forceinline__ void put(T* target, const float (&values)[VEC]) {
  Vec<T, VEC> rounded;
#pragma unroll
  for (int j = 0; j < VEC; j++) rounded.at[j] = from_float<T>(values[j]);
  store<VEC>(target, rounded);
}

/// Over the threads of a head.
template <typename F> __device__ __forceinline__ float reduce_head(float value, F f) {
  const u32 threads = (LANES == 32 ? 0u : 1u << LANES % 32) - 1 << threadIdx.x % 32 / LANES * LANES;
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) value = f(value, __shfl_xor_sync(threads, value, distance));
  return value;
}

/// A thread's share of a head, read at once.
template <int kHeadDim, int kRotaryDim> struct Part {
  static constexpr int kPairs = kRotaryDim / 2, kPieces = (kHeadDim - kPairs) / VEC, kOwn = (kPieces + LANES - 1) / LANES;
  Vec<X, VEC> first[kOwn], second[kOwn];  // columns that turn together; where none do, `first` alone

  /// f(i, first pair, or column behind as many pairs as turn).
  template <typename F> static __device__ __forceinline__ void each(F f) {
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
      const int piece = threadIdx.x % LANES + i * LANES;
      if (piece < kPieces) f(i, piece * VEC);
    }
  }

  static __device__ __forceinline__ int first_column(int pair) { return INTERLEAVED ? 2 * pair : pair; }
  static __device__ __forceinline__ int second_column(int pair) { return INTERLEAVED ? 2 * pair + VEC : pair + kPairs; }

  __device__ __forceinline__ void read(const X* head) {
    each([&](int i, int pair) {
      first[i] = load<VEC>(head + (pair < kPairs ? first_column(pair) : kPairs + pair));
      if (pair < kPairs) second[i] = load<VEC>(head + second_column(pair));
    });
  }

  /// f(first column, VEC values) takes the results. Angles: cosines, then sines.
  template <typename F> __device__ __forceinline__ void turn(const float* angles, F f) const {
    each([&](int i, int pair) {
      float low[VEC], high[VEC];
      if (pair >= kPairs) {
#pragma unroll
        for (int j = 0; j < VEC; j++) low[j] = to_float(first[i].at[j]);
        f(kPairs + pair, low);
        return;
      }
      const Vec<float, VEC> cos = load<VEC>(angles + pair), sin = load<VEC>(angles + kPairs + pair);
      const auto from = [&](int k) { return to_float(k < VEC ? first[i].at[k] : second[i].at[k - VEC]); };
      const auto to = [&](int k) -> float& { return k < VEC ? low[k] : high[k - VEC]; };
#pragma unroll
      for (int j = 0; j < VEC; j++) {
        const int a = INTERLEAVED ? 2 * j : j, b = INTERLEAVED ? 2 * j + 1 : j + VEC;
        to(a) = from(a) * cos.at[j] - from(b) * sin.at[j];
        to(b) = from(b) * cos.at[j] + from(a) * sin.at[j];
      }
      f(first_column(pair), low);
      f(second_column(pair), high);
    });
  }

  __device__ __forceinline__ void write(X* head, const float* angles) const {
    turn(angles, [&](int column, const float (&values)[VEC]) { put(head + column, values); });
  }

  /// To a slot's row of a head in a cache; int8 codes have a scale.
  __device__ __forceinline__ void write(C* cache, int slot, int head, int num_heads, const float* angles) const {
    C* rows = cache + head_start<C>(slot / BLOCK_SIZE, head, num_heads, kHeadDim);
    const int row = slot % BLOCK_SIZE;
    float divisor = 1.0f;
    if constexpr (kScaleBytes<C> > 0) divisor = write_scale(rows, row, angles);
    turn(angles, [&](int column, float (&values)[VEC]) {
#pragma unroll
      for (int j = 0; j < VEC && kScaleBytes<C> > 0; j++) values[j] /= divisor;
      put(rows + element_at<C>(row, column, kHeadDim), values);
    });
  }

  /// What numbers are to be divided by.
  __device__ __forceinline__ float write_scale(C* rows, int row, const float* angles) const {
    float absmax = 0.0f;
    turn(angles, [&](int, const float (&values)[VEC]) {
#pragma unroll
      for (int j = 0; j < VEC; j++) absmax = MaxMagnitude()(absmax, fabsf(values[j]));
    });
    const fp16 scale = from_float<fp16>(reduce_head(absmax, MaxMagnitude()) / kLargestCode<C>);
    u8* bytes = reinterpret_cast<u8*>(rows + scale_at<C>(row, kHeadDim));
    if (threadIdx.x % LANES < 2) bytes[threadIdx.x % LANES] = u8(scale.bits >> threadIdx.x % LANES * 8);
    return to_float(scale) == 0.0f ? INFINITY : to_float(scale);
  }
};

/// Grid [tokens, chunks of a token's heads].
extern "C" __global__ void rope(const int* num_rows, const X* x, i64 x_stride, X* y, i64 y_stride, const int* positions,
                                const float* table, int num_heads) {
  const i64 token = blockIdx.x;
  const int rows = *num_rows, head = (blockIdx.y * blockDim.x + threadIdx.x) / LANES;
  const float* angles = table + i64(positions[token]) * ROTARY_DIM;
  let_next_start();
  wait_for_previous();
  if (token >= rows || head >= num_heads) return;
  Part<HEAD_DIM, ROTARY_DIM> part;
  part.read(x + token * x_stride + head * HEAD_DIM);
  part.write(y + token * y_stride + head * HEAD_DIM, angles);
}

/// Grid [tokens, chunks of a token's heads]: threads take a head of queries, one of keys and one of values at once, so that enough
/// is on its way. Without a table keys are stored as they are and there are no queries.
extern "C" __global__ void __launch_bounds__(128)
    rope_kv_write(const int* num_rows, const X* q, i64 q_stride, X* y, i64 y_stride, const X* k, i64 k_stride, const X* v,
                  i64 v_stride, const int* positions, const int* slots, const float* table, C* keys, C* values,
                  int num_heads, int num_kv_heads) {
  const i64 token = blockIdx.x;
  const int rows = *num_rows, slot = slots[token], head = (blockIdx.y * blockDim.x + threadIdx.x) / LANES;
  const float* angles = table ? table + i64(positions[token]) * ROTARY_DIM : nullptr;
  let_next_start();
  wait_for_previous();
  if (token >= rows) return;
  const bool is_query = head < num_heads, is_key = head < num_kv_heads;
  Part<HEAD_DIM, ROTARY_DIM> query, key;
  Part<VALUE_HEAD_DIM, 0> value;
  if (is_query) query.read(q + token * q_stride + head * HEAD_DIM);
  if (is_key) key.read(k + token * k_stride + head * HEAD_DIM);
  if (is_key) value.read(v + token * v_stride + head * VALUE_HEAD_DIM);
  if (is_query) query.write(y + token * y_stride + head * HEAD_DIM, angles);
  if (is_key) key.write(keys, slot, head, num_kv_heads, angles);
  if (is_key) value.write(values, slot, head, num_kv_heads, nullptr);
}
