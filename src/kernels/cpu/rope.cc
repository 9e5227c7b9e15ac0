// rope and the writes to the KV cache: kvWrite, and ropeKvWrite, which turns queries and keys and stores in one pass.
#include <cstring>

#include "kernels.h"
#include "row-range.h"
#include "vector-math.h"

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

/// Where a slot's keys and values of one head go.
template <typename T>
struct Slot {
  T* keys;    // elements block_size apart
  T* values;  // contiguous

  Slot(const KvCache& cache, int32_t slot, int32_t head) {
    const int32_t block = slot / cache.block_size, offset = slot % cache.block_size;
    keys = cache.keys<T>(block, head) + offset;
    values = cache.values<T>(block, head) + int64_t(offset) * cache.value_dim;
  }
};

template <typename T>
void store_key(const KvCache& cache, T* to, const float* key) {
  for (int32_t d = 0; d < cache.key_dim; d++) from_float(key[d], to + int64_t(d) * cache.block_size);
}

template <typename T>
void store_value(const KvCache& cache, T* to, const float* value) {
  for (int32_t d = 0; d < cache.value_dim; d++) from_float(value[d], to + d);
}

template <typename T>
void write_cache(const ThreadContext& context, const Command& command, const Step& step) {
  const KvCache& cache = step.kv_cache(command.outputs[0]);
  const int32_t* slots = step.input(command.inputs[2]);
  const Range tokens = share_of(context, step.rows(command));
  for (int64_t token = tokens.begin; token < tokens.end; token++) {
    for (int32_t head = 0; head < cache.num_kv_heads; head++) {
      const Slot<T> slot(cache, slots[token], head);
      store_key(cache, slot.keys, command.inputs[0].row(token) + head * cache.key_dim);
      store_value(cache, slot.values, command.inputs[1].row(token) + head * cache.value_dim);
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
      const Slot<T> slot(cache, slots[token], head);
      rotate(k.row(token) + head * cache.key_dim, key, table_row, shape);
      store_key(cache, slot.keys, key);
      store_value(cache, slot.values, v.row(token) + head * cache.value_dim);
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
    default: return write_cache<float>(context, command, step);
  }
}

/// q, k, v, positions, slot mapping, table → turned q, cache. Parameters: head dim, rotary dim, interleaved.
void rope_kv_write(const ThreadContext& context, const Command& command, const Step& step) {
  switch (step.kv_cache(command.outputs[1]).dtype) {
    case DType::kBfloat16: return rotate_and_write<Bfloat16>(context, command, step);
    case DType::kFloat16: return rotate_and_write<Float16>(context, command, step);
    default: return rotate_and_write<float>(context, command, step);
  }
}

ScratchBytes rope_kv_write_scratch(const Command& command, const ScratchQuery&) {
  return {int64_t(command.ints[0]) * int64_t(sizeof(float)), 0};
}

}  // namespace needletail
