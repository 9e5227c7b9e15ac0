// What kernels are given: commands (a plan's launches with addresses filled in) and the step they run on.
#pragma once

#include <cstdint>

#include "thread-context.h"

namespace needletail {

enum class DType : int32_t {
  kFloat32 = 0,
  kBfloat16 = 1,
  kFloat16 = 2,
  kInt32 = 3,
  kInt8 = 4,
  kUint4 = 5,
  kFloat8 = 6,  // e4m3
};

/// See `WeightLayout` in src/kernels/kernel.ts.
enum class Layout : int32_t { kRowMajor = 0, kPanel16 = 1, kPanel16x2 = 2, kPanel16Words = 3 };

enum class OperandKind : int32_t { kNone = 0, kMemory = 1, kInput = 2, kKvCache = 3 };

/// Arrays of a step, numbered as src/device/cpu/program-blob.ts does.
enum class InputName : int32_t {
  kTokenIds = 0,
  kPositions = 1,
  kCuSeqlensQ = 2,
  kContextLens = 3,
  kLogitRows = 4,
  kSlotMapping = 5,  // one per cache group
  kBlockTables = 6,  // one per cache group
};

enum class RowSymbol : int32_t { kNumTokens = 0, kNumSeqs = 1, kNumLogitRows = 2 };

/// A matrix in memory (an activation's view, a weight, a rope table), an array of the step, or a layer's KV cache.
struct Operand {
  OperandKind kind;
  DType dtype;
  Layout layout;
  int32_t index;  // of the input's name or of the KV cache
  int32_t group;  // of the input
  int32_t reserved;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;  // in elements
  void* data;

  bool is_present() const { return kind != OperandKind::kNone; }
  template <typename T = float>
  T* row(int64_t r) const {
    return static_cast<T*>(data) + r * row_stride;
  }
};

struct Variant {
  int32_t kernel;
  int32_t max_rows;  // −1: any number
};

/// One launch. The device writes it field by field (src/device/cpu/program-blob.ts); sizes are asserted below.
struct Command {
  static constexpr int kMaxVariants = 4;
  static constexpr int kMaxInputs = 8;
  static constexpr int kMaxOutputs = 4;
  static constexpr int kMaxParameters = 16;

  RowSymbol rows;
  int32_t num_variants;
  Variant variants[kMaxVariants];
  Operand inputs[kMaxInputs];
  Operand outputs[kMaxOutputs];
  /// The op's attributes in the order of its launch description: 32-bit integers and floats.
  union {
    int32_t ints[kMaxParameters];
    float floats[kMaxParameters];
  };
  /// Longer attributes (ALiBi slopes), or null.
  const float* constants;
};

/// Keys and values of one layer. A block holds, for each KV head, its keys as `[key_dim][block_size]` (so that one
/// vector takes the same element of several tokens), then its values as `[block_size][value_dim]`; of int8 also float16
/// scales of the keys `[block_size]`, then of the values.
struct KvCache {
  uint8_t* data;
  DType dtype;
  int32_t group;
  int32_t num_kv_heads;
  int32_t key_dim;
  int32_t value_dim;
  int32_t block_size;
  int32_t num_blocks;
  int32_t reserved;

  int64_t item_size() const {
    if (dtype == DType::kFloat32) return 4;
    return dtype == DType::kInt8 || dtype == DType::kFloat8 ? 1 : 2;
  }
  int64_t code_bytes() const { return block_size * (key_dim + value_dim) * item_size(); }
  int64_t head_bytes() const { return code_bytes() + (dtype == DType::kInt8 ? 2 * block_size * sizeof(uint16_t) : 0); }
  int64_t block_bytes() const { return num_kv_heads * head_bytes(); }
  /// Keys of a head in a block; its values follow `key_dim * block_size` elements later.
  template <typename T>
  T* keys(int64_t block, int64_t head) const {
    return reinterpret_cast<T*>(data + block * block_bytes() + head * head_bytes());
  }
  template <typename T>
  T* values(int64_t block, int64_t head) const {
    return keys<T>(block, head) + int64_t(key_dim) * block_size;
  }
  /// Those of the values follow `block_size` later.
  template <typename T>
  T* key_scales(int64_t block, int64_t head) const {
    return reinterpret_cast<T*>(keys<uint8_t>(block, head) + code_bytes());
  }
};

static_assert(sizeof(Operand) == 56 && sizeof(Command) == 784 && sizeof(KvCache) == 40, "the device writes these");

/// Block table and slots of one cache group.
struct GroupBatch {
  const int32_t* slot_mapping;  // [num_tokens]
  const int32_t* block_tables;  // [num_seqs, max_blocks_per_seq]
  int32_t max_blocks_per_seq;
};

/// One step, its indices already checked against what they index.
struct Step {
  int32_t num_tokens;
  int32_t num_seqs;
  int32_t num_logit_rows;
  const int32_t* inputs[5];  // [numTokens], [numTokens], [numSeqs + 1], [numSeqs], [numLogitRows]
  const GroupBatch* groups;
  const KvCache* kv_caches;
  /// Scratch that the plan declares, shared by the threads.
  uint8_t* workspace;
  /// Scratch of each thread for tiles and partial results, and what all threads share for the same.
  uint8_t* thread_scratch;
  int64_t thread_scratch_bytes;
  uint8_t* shared_scratch;

  int32_t rows(const Command& command) const {
    if (command.rows == RowSymbol::kNumTokens) return num_tokens;
    return command.rows == RowSymbol::kNumSeqs ? num_seqs : num_logit_rows;
  }
  const int32_t* input(const Operand& operand) const {
    const auto name = InputName(operand.index);
    if (name == InputName::kSlotMapping) return groups[operand.group].slot_mapping;
    if (name == InputName::kBlockTables) return groups[operand.group].block_tables;
    return inputs[operand.index];
  }
  const int32_t* positions() const { return inputs[int32_t(InputName::kPositions)]; }
  const int32_t* cu_seqlens_q() const { return inputs[int32_t(InputName::kCuSeqlensQ)]; }
  const int32_t* context_lens() const { return inputs[int32_t(InputName::kContextLens)]; }
  const KvCache& kv_cache(const Operand& operand) const { return kv_caches[operand.index]; }
  uint8_t* scratch(const ThreadContext& context) const {
    return thread_scratch + context.thread * thread_scratch_bytes;
  }
};

/// Every thread of the pool calls the kernel at once; the caller puts a barrier after it.
using Kernel = void (*)(const ThreadContext&, const Command&, const Step&);

}  // namespace needletail
