// rope and the writes to the KV cache: kvWrite, and ropeKvWrite, which turns queries and keys and stores in one pass.
#include <cstring>
#include <type_traits>

#include "code-values.h"
#include "kernels.h"
#include "row-range.h"

namespace needletail {
namespace {

struct RopeShape {
  int32_t head_dim;
  int32_t rotary_dim;
  bool is_interleaved;
};

/// Pairs (0, 1), (2, 3), …; `y` may be `x`.
void rotate_interleaved(const float* x, float* y, const float* cos, const float* sin, int32_t num_pairs) {
  for (int32_t i = 0; i < num_pairs; i++) {
    const float first = x[2 * i], second = x[2 * i + 1];
    y[2 * i] = first * cos[i] - second * sin[i];
    y[2 * i + 1] = second * cos[i] + first * sin[i];
  }
}

/// Pairs (i, i + num_pairs); `y` may be `x`.
void rotate_halves(const float* x, float* y, const float* cos, const float* sin, int32_t num_pairs) {
  for_each_vector(num_pairs, [&](int64_t i, int count) {
    const Floats first = load_lanes(x + i, count), second = load_lanes(x + num_pairs + i, count);
    const Floats c = load_lanes(cos + i, count), s = load_lanes(sin + i, count);
    store_lanes(y + i, first * c - second * s, count);
    store_lanes(y + num_pairs + i, multiply_add(second, c, first * s), count);
  });
}

/// One head of `head_dim` elements; `table_row` holds the cosines, then the sines.
void rotate(const float* x, float* y, const float* table_row, const RopeShape& shape) {
  const int32_t num_pairs = shape.rotary_dim / 2;
  const auto rotate_pairs = shape.is_interleaved ? rotate_interleaved : rotate_halves;
  rotate_pairs(x, y, table_row, table_row + num_pairs, num_pairs);
  const int32_t rest = shape.head_dim - shape.rotary_dim;
  if (x != y && rest > 0) std::memcpy(y + shape.rotary_dim, x + shape.rotary_dim, rest * sizeof(float));
}

RopeShape shape_of(const Command& command) { return {command.ints[0], command.ints[1], command.ints[2] != 0}; }

/// Stores x / divisor, element i at to[i * stride].
template <typename T>
void store_vector(const float* x, int32_t size, float divisor, T* to, int64_t stride) {
  for_each_vector(size, [&](int64_t i, int count) {
    T elements[kLanes];
    const Floats v = load_lanes(x + i, count);
    store_floats(elements, std::is_same_v<T, Int8> ? v / divisor : v);
    for (int j = 0; j < count; j++) to[(i + j) * stride] = elements[j];
  });
}

/// Stores the scale of a vector's codes, and gives what the vector is to be divided by.
float store_scale(const float* x, int32_t size, Float16* to) {
  from_float(absmax(x, size) / 127.0f, to);
  const float scale = to_float(*to);
  return scale == 0 ? INFINITY : scale;
}

/// One head's key and value, at a slot of the cache.
template <typename T>
void store_head(const KvCache& cache, int32_t slot, int32_t head, const float* key, const float* value) {
  const int32_t block = slot / cache.block_size, offset = slot % cache.block_size;
  float divisors[2] = {1, 1};
  if constexpr (std::is_same_v<T, Int8>) {
    auto* scales = cache.key_scales<Float16>(block, head) + offset;
    divisors[0] = store_scale(key, cache.key_dim, scales);
    divisors[1] = store_scale(value, cache.value_dim, scales + cache.block_size);
  }
  store_vector(key, cache.key_dim, divisors[0], cache.keys<T>(block, head) + offset, cache.block_size);
  T* values = cache.values<T>(block, head) + int64_t(offset) * cache.value_dim;
  store_vector(value, cache.value_dim, divisors[1], values, 1);
}

template <typename T>
void write_cache(const ThreadContext& context, const Command& command, const Step& step) {
  const KvCache& cache = step.kv_cache(command.outputs[0]);
  const int32_t* slots = step.input(command.inputs[2]);
  const Range tokens = share_of(context, step.rows(command));
  for (int64_t token = tokens.begin; token < tokens.end; token++) {
    for (int32_t head = 0; head < cache.num_kv_heads; head++) {
      store_head<T>(cache, slots[token], head, command.inputs[0].row(token) + head * cache.key_dim,
                    command.inputs[1].row(token) + head * cache.value_dim);
    }
  }
}

template <typename T>
void rotate_and_write(const ThreadContext& context, const Command& command, const Step& step) {
  const RopeShape shape = shape_of(command);
  const KvCache& cache = step.kv_cache(command.outputs[1]);
  const Operand &q = command.inputs[0], &k = command.inputs[1], &v = command.inputs[2], &table = command.inputs[5];
  const int32_t* positions = step.input(command.inputs[3]);
  const int32_t* slots = step.input(command.inputs[4]);
  auto* key = reinterpret_cast<float*>(step.scratch(context));
  const Range tokens = share_of(context, step.rows(command));
  for (int64_t token = tokens.begin; token < tokens.end; token++) {
    const float* table_row = table.row(positions[token]);
    for (int64_t start = 0; start < q.columns; start += shape.head_dim) {
      rotate(q.row(token) + start, command.outputs[0].row(token) + start, table_row, shape);
    }
    for (int32_t head = 0; head < cache.num_kv_heads; head++) {
      rotate(k.row(token) + head * cache.key_dim, key, table_row, shape);
      store_head<T>(cache, slots[token], head, key, v.row(token) + head * cache.value_dim);
    }
  }
}

}  // namespace

/// x, positions, table → y. Parameters: head dim, rotary dim, interleaved.
void rope(const ThreadContext& context, const Command& command, const Step& step) {
  const RopeShape shape = shape_of(command);
  const Operand& x = command.inputs[0];
  const int32_t* positions = step.input(command.inputs[1]);
  const Range tokens = share_of(context, step.rows(command));
  for (int64_t token = tokens.begin; token < tokens.end; token++) {
    const float* table_row = command.inputs[2].row(positions[token]);
    for (int64_t start = 0; start < x.columns; start += shape.head_dim) {
      rotate(x.row(token) + start, command.outputs[0].row(token) + start, table_row, shape);
    }
  }
}

/// k, v, slot mapping → cache.
void kv_write(const ThreadContext& context, const Command& command, const Step& step) {
  switch (step.kv_cache(command.outputs[0]).dtype) {
    case DType::kBfloat16: return write_cache<Bfloat16>(context, command, step);
    case DType::kFloat16: return write_cache<Float16>(context, command, step);
    case DType::kInt8: return write_cache<Int8>(context, command, step);
    case DType::kFloat8: return write_cache<Float8>(context, command, step);
    default: return write_cache<float>(context, command, step);
  }
}

/// q, k, v, positions, slot mapping, table → turned q, cache. Parameters: head dim, rotary dim, interleaved.
void rope_kv_write(const ThreadContext& context, const Command& command, const Step& step) {
  switch (step.kv_cache(command.outputs[1]).dtype) {
    case DType::kBfloat16: return rotate_and_write<Bfloat16>(context, command, step);
    case DType::kFloat16: return rotate_and_write<Float16>(context, command, step);
    case DType::kInt8: return rotate_and_write<Int8>(context, command, step);
    case DType::kFloat8: return rotate_and_write<Float8>(context, command, step);
    default: return rotate_and_write<float>(context, command, step);
  }
}

ScratchBytes rope_kv_write_scratch(const Command& command, const ScratchQuery&) {
  return {int64_t(command.ints[0]) * int64_t(sizeof(float)), 0};
}

}  // namespace needletail
