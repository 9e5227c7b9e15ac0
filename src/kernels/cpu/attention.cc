// attention: causal attention of a ragged batch over the paged cache, as flash attention: tiles of queries against tiles
// of keys and values, with a running softmax (Dao et al., "FlashAttention", 2022). All query heads of a KV head share a
// tile, so grouped heads read keys and values once. A decoded token's long context is split between threads.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "attention-work.h"
#include "code-values.h"
#include "kernels.h"
#include "tile-product.h"

namespace needletail {
namespace {

/// A thread's tiles. Row r is query r / group_size, head r % group_size of the group.
struct Tiles {
  float* queries;     // [tile_rows, query_dim], scaled
  float* scores;      // [tile_rows, tile_tokens] or fewer rows of more tokens, then probabilities
  float* output;      // [tile_rows, value_dim], not yet divided by the sums
  float* largest;     // [tile_rows], of the scores so far
  float* sums;        // [tile_rows], of the probabilities so far
  float* keys;        // [query_dim, tile_tokens], where converted
  float* values;      // [tile_tokens, value_dim]

  /// Floats of each of them, padded to cache lines.
  using Sizes = std::array<int64_t, 7>;

  static Sizes sizes(int64_t rows, int64_t tokens, const KvCache& cache, int64_t query_dim) {
    const int64_t num_scores = std::max<int64_t>(rows, kTileRows) * tokens;
    Sizes sizes = {rows * query_dim, num_scores,         rows * cache.value_dim,  rows,
                   rows,             query_dim * tokens, tokens * cache.value_dim};
    for (int64_t& size : sizes) size = (size + 15) / 16 * 16;
    return sizes;
  }

  Tiles(float* memory, const Sizes& sizes) {
    float** const tiles[] = {&queries, &scores, &output, &largest, &sums, &keys, &values};
    for (size_t i = 0; i < sizes.size(); i++) {
      *tiles[i] = memory;
      memory += sizes[i];
    }
  }
};

/// Where partial results lie: per partial and head the unnormalised output, then largest score and sum.
float* partial_result(const AttentionLaunch& launch, int32_t partial, int32_t head) {
  const int64_t size = launch.cache.value_dim + 2;
  return reinterpret_cast<float*>(launch.step.shared_scratch) + (int64_t(partial) * launch.num_heads + head) * size;
}

/// What a head's sink adds to the sum of its probabilities, which are relative to the score `largest`.
float sink_share(const AttentionLaunch& launch, int32_t head, float largest) {
  return launch.sinks ? std::exp(launch.sinks[head] - largest) : 0.0f;
}

/// Multiplies each column of `rows` rows of `count` floats by a scale of its own.
void scale_columns(float* matrix, int64_t stride, int32_t rows, const Float16* scales, int32_t count) {
  for_each_vector(count, [&](int64_t i, int lanes) {
    const Floats scale = lanes == kLanes ? load_floats(scales + i) : load_first_floats(scales + i, lanes);
    for (int32_t row = 0; row < rows; row++) {
      float* place = matrix + row * stride + i;
      store_lanes(place, load_lanes(place, lanes) * scale, lanes);
    }
  });
}

template <typename T>
class Worker {
 public:
  Worker(const AttentionLaunch& launch, float* scratch)
      : launch_(launch),
        cache_(launch.cache),
        tiles_(scratch, Tiles::sizes(launch.tile_rows, launch.tile_tokens, launch.cache, launch.query_dim)) {}

  void run(const WorkItem& item) {
    item_ = item;
    rows_ = item.num_queries * launch_.group_size;
    converts_ = rows_ >= kMinRowsToConvert || launch_.latent_queries;
    tokens_ = launch_.tile_tokens * (converts_ ? 1 : kLongTile);
    start_rows();
    for (int32_t start = item.begin / tokens_ * tokens_; start < item.end; start += tokens_) attend(start);
    if (item.partial < 0) finish();
    else keep_partial();
  }

 private:
  /// Codes are multiplied first: the scales of keys go into the scores, those of values into the probabilities.
  static constexpr bool kHasScales = std::is_same_v<T, Int8>;

  int32_t head_of(int32_t row) const { return item_.kv_head * launch_.group_size + row % launch_.group_size; }
  int32_t token_of(int32_t row) const {
    return launch_.first_token(item_.seq) + item_.first_query + row / launch_.group_size;
  }
  int32_t position_of(int32_t row) const {
    return launch_.position(item_.seq, item_.first_query + row / launch_.group_size);
  }

  void start_rows() {
    for (int32_t row = 0; row < rows_; row++) {
      float* to = tiles_.queries + int64_t(row) * launch_.query_dim;
      copy_query(launch_.command.inputs[0], row, cache_.key_dim, to);
      if (launch_.latent_queries) copy_query(*launch_.latent_queries, row, cache_.value_dim, to + cache_.key_dim);
      tiles_.largest[row] = -INFINITY;
      tiles_.sums[row] = 0;
    }
    std::memset(tiles_.output, 0, sizeof(float) * rows_ * cache_.value_dim);
  }

  void copy_query(const Operand& queries, int32_t row, int32_t size, float* to) const {
    const float* q = queries.row(token_of(row)) + int64_t(head_of(row)) * size;
    for (int32_t d = 0; d < size; d++) to[d] = q[d] * launch_.scale;
  }

  /// The tile of tokens from position `start` on, of which [begin, end) count.
  void attend(int32_t start) {
    const int32_t begin = std::max(0, item_.begin - start);
    const int32_t end = std::min(tokens_, item_.end - start);
    std::memset(tiles_.scores, 0, sizeof(float) * rows_ * tokens_);
    if (converts_) score_tile(start, end);
    else score_blocks(start, end);
    for (int32_t row = 0; row < rows_; row++) weigh(row, start, begin, end);
    if (converts_) sum_tile(begin, end);
    else sum_blocks(start, begin, end);
  }

  /// Scores of a tile that is converted first, and the sum of its values weighted by probability.
  void score_tile(int32_t start, int32_t end) {
    convert_tile(start, end);
    if (launch_.latent_queries) append_values_to_keys(end);
    const int32_t size = launch_.query_dim;
    multiply_tile<float>({tiles_.queries, size, tiles_.keys, tokens_, tiles_.scores, tokens_, size}, rows_, end);
  }
  void sum_tile(int32_t begin, int32_t end) {
    const float* values = tiles_.values + int64_t(begin) * cache_.value_dim;
    multiply_tile<float>({tiles_.scores + begin, tokens_, values, cache_.value_dim, tiles_.output, cache_.value_dim,
                          end - begin}, rows_, cache_.value_dim);
  }

  void convert_tile(int32_t start, int32_t end) {
    for (int32_t offset = 0; offset < end; offset += cache_.block_size) {
      const int64_t block = launch_.block(item_.seq, (start + offset) / cache_.block_size);
      const T* keys = cache_.keys<T>(block, item_.kv_head);
      const T* values = cache_.values<T>(block, item_.kv_head);
      for (int32_t d = 0; d < cache_.key_dim; d++) {
        convert(keys + int64_t(d) * cache_.block_size, tiles_.keys + int64_t(d) * tokens_ + offset,
                cache_.block_size);
      }
      const int32_t count = std::min(cache_.block_size, end - offset);
      float* to = tiles_.values + int64_t(offset) * cache_.value_dim;
      convert(values, to, int64_t(count) * cache_.value_dim);
      if constexpr (kHasScales) {
        scale_columns(tiles_.keys + offset, tokens_, cache_.key_dim, key_scales_at(start + offset), cache_.block_size);
        scale_rows(to, value_scales_at(start + offset), count);
      }
    }
  }
  /// Values of `count` tokens.
  void scale_rows(float* values, const Float16* scales, int32_t count) const {
    for (int32_t token = 0; token < count; token++) {
      const float scale = to_float(scales[token]);
      float* row = values + int64_t(token) * cache_.value_dim;
      for (int32_t d = 0; d < cache_.value_dim; d++) row[d] *= scale;
    }
  }
  static void convert(const T* from, float* to, int64_t size) {
    for_each_vector(size, [&](int64_t i, int count) {
      store_lanes(to + i, count == kLanes ? load_floats(from + i) : load_first_floats(from + i, count), count);
    });
  }

  /// The tile's values [tokens, value_dim] as rows [value_dim, tokens] behind the keys'.
  void append_values_to_keys(int32_t end) {
    const int32_t size = cache_.value_dim;
    float* to = tiles_.keys + int64_t(cache_.key_dim) * tokens_;
    for (int32_t token = 0; token < end; token += kLanes) {
      for (int32_t d = 0; d < size; d += kLanes) {
        const int columns = std::min(kLanes, size - d);
        Floats square[kLanes];
        for (int i = 0; i < kLanes; i++) {
          const float* from = tiles_.values + int64_t(token + i) * size + d;
          square[i] = token + i < end ? load_lanes(from, columns) : zeros();
        }
        transpose(square);
        const int tokens = std::min(kLanes, tokens_ - token);
        for (int i = 0; i < columns; i++) store_lanes(to + int64_t(d + i) * tokens_ + token, square[i], tokens);
      }
    }
  }

  /// The same straight from the cache's blocks.
  void score_blocks(int32_t start, int32_t end) {
    for (int32_t offset = 0; offset < end; offset += cache_.block_size) {
      const T* next = offset + cache_.block_size < end ? keys_at(start + offset + cache_.block_size) : values_at(start);
      multiply_tile<T>({tiles_.queries, cache_.key_dim, keys_at(start + offset), cache_.block_size,
                        tiles_.scores + offset, tokens_, cache_.key_dim, next}, rows_, cache_.block_size);
      if constexpr (kHasScales) {
        scale_columns(tiles_.scores + offset, tokens_, rows_, key_scales_at(start + offset), cache_.block_size);
      }
    }
  }
  void sum_blocks(int32_t start, int32_t begin, int32_t end) {
    for (int32_t offset = begin / cache_.block_size * cache_.block_size; offset < end; offset += cache_.block_size) {
      const int32_t first = std::max(begin, offset), last = std::min(end, offset + cache_.block_size);
      const T* values = values_at(start + offset) + int64_t(first - offset) * cache_.value_dim;
      if constexpr (kHasScales) {
        const Float16* scales = value_scales_at(start + offset) + (first - offset);
        scale_columns(tiles_.scores + first, tokens_, rows_, scales, last - first);
      }
      multiply_tile<T>({tiles_.scores + first, tokens_, values, cache_.value_dim, tiles_.output, cache_.value_dim,
                        last - first, after_values(start, offset, end)}, rows_, cache_.value_dim);
    }
  }
  /// What is read after the values at tile token `offset`: those of the next block, or the keys of the next tile.
  const T* after_values(int32_t start, int32_t offset, int32_t end) const {
    const int32_t next = offset + cache_.block_size;
    if (next < end) return values_at(start + next);
    return start + tokens_ < item_.end ? keys_at(start + tokens_) : nullptr;
  }
  const T* keys_at(int32_t position) const {
    return cache_.keys<T>(launch_.block(item_.seq, position / cache_.block_size), item_.kv_head);
  }
  const T* values_at(int32_t position) const {
    return cache_.values<T>(launch_.block(item_.seq, position / cache_.block_size), item_.kv_head);
  }

  const Float16* key_scales_at(int32_t position) const {
    return cache_.key_scales<Float16>(launch_.block(item_.seq, position / cache_.block_size), item_.kv_head);
  }
  const Float16* value_scales_at(int32_t position) const { return key_scales_at(position) + cache_.block_size; }

  /// Turns a row's scores of tile tokens [begin, end) into probabilities relative to the largest score so far.
  void weigh(int32_t row, int32_t start, int32_t begin, int32_t end) {
    float* scores = tiles_.scores + int64_t(row) * tokens_;
    const int32_t position = position_of(row);
    const int32_t visible_begin = std::min(end, std::max(begin, launch_.first_visible(position) - start));
    const int32_t visible_end = std::max(visible_begin, std::min(end, position + 1 - start));
    adjust(row, scores, end, position - start);
    std::fill(scores, scores + visible_begin, -INFINITY);
    std::fill(scores + visible_end, scores + end, -INFINITY);
    if (visible_begin == visible_end) std::fill(scores, scores + end, 0.0f);
    else accumulate(row, scores, end);
  }

  /// Soft cap and ALiBi; `distance` is that of the tile's first token.
  void adjust(int32_t row, float* scores, int32_t end, int32_t distance) const {
    if (launch_.softcap != 0) {
      for_each_vector(end, [&](int64_t i, int count) {
        const Floats capped = launch_.softcap * tanh(load_lanes(scores + i, count) / launch_.softcap);
        store_lanes(scores + i, capped, count);
      });
    }
    if (!launch_.slopes) return;
    const float slope = launch_.slopes[head_of(row)];
    for (int32_t i = 0; i < end; i++) scores[i] -= slope * float(distance - i);
  }

  void accumulate(int32_t row, float* scores, int32_t end) {
    Floats tile_largest = broadcast(-INFINITY);
    for_each_vector(end, [&](int64_t i, int count) {
      const Floats v = count == kLanes ? load(scores + i) : load_padded(scores + i, count);
      tile_largest = max(tile_largest, v);
    });
    const float before = tiles_.largest[row];
    const float largest = std::max(before, max_lanes(tile_largest));
    Floats sum = zeros();
    for_each_vector(end, [&](int64_t i, int count) {
      const Floats v = count == kLanes ? load(scores + i) : load_padded(scores + i, count);
      const Floats probability = exp(v - largest);
      sum = sum + probability;
      store_lanes(scores + i, probability, count);
    });
    if (largest != before) rescale(row, before == -INFINITY ? 0.0f : std::exp(before - largest));
    tiles_.largest[row] = largest;
    tiles_.sums[row] += sum_lanes(sum);
  }
  static Floats load_padded(const float* p, int count) {
    float lanes[kLanes];
    for (int i = 0; i < kLanes; i++) lanes[i] = i < count ? p[i] : -INFINITY;
    return load(lanes);
  }
  void rescale(int32_t row, float factor) {
    tiles_.sums[row] *= factor;
    float* output = tiles_.output + int64_t(row) * cache_.value_dim;
    for (int32_t d = 0; d < cache_.value_dim; d++) output[d] *= factor;
  }

  void finish() const {
    for (int32_t row = 0; row < rows_; row++) {
      const float* from = tiles_.output + int64_t(row) * cache_.value_dim;
      float* to = launch_.command.outputs[0].row(token_of(row)) + int64_t(head_of(row)) * cache_.value_dim;
      const float factor = 1.0f / (tiles_.sums[row] + sink_share(launch_, head_of(row), tiles_.largest[row]));
      for (int32_t d = 0; d < cache_.value_dim; d++) to[d] = from[d] * factor;
    }
  }
  void keep_partial() const {
    for (int32_t row = 0; row < rows_; row++) {
      float* to = partial_result(launch_, item_.partial, head_of(row));
      std::memcpy(to, tiles_.output + int64_t(row) * cache_.value_dim, sizeof(float) * cache_.value_dim);
      to[cache_.value_dim] = tiles_.largest[row];
      to[cache_.value_dim + 1] = tiles_.sums[row];
    }
  }

  const AttentionLaunch& launch_;
  const KvCache& cache_;
  Tiles tiles_;
  WorkItem item_;
  int32_t rows_ = 0;
  int32_t tokens_ = 0;
  bool converts_ = false;
};

/// Adds up the partial results of one head of a split sequence.
void merge_partials(const AttentionLaunch& launch, int32_t first, int32_t count, int32_t head, float* to) {
  const int32_t size = launch.cache.value_dim;
  float largest = -INFINITY;
  for (int32_t i = 0; i < count; i++) largest = std::max(largest, partial_result(launch, first + i, head)[size]);
  std::fill(to, to + size, 0.0f);
  float sum = sink_share(launch, head, largest);
  for (int32_t i = 0; i < count; i++) {
    const float* partial = partial_result(launch, first + i, head);
    const float factor = std::exp(partial[size] - largest);
    sum += factor * partial[size + 1];
    for (int32_t d = 0; d < size; d++) to[d] += factor * partial[d];
  }
  for (int32_t d = 0; d < size; d++) to[d] /= sum;
}

void merge_all(const ThreadContext& context, const AttentionLaunch& launch, const ContextSplitting& splitting) {
  int32_t first = 0;
  int64_t number = 0;
  for (int32_t seq = 0; seq < launch.step.num_seqs; seq++) {
    const int32_t splits = splitting.num_splits(launch, seq);
    if (splits == 1) continue;
    for (int32_t head = 0; head < launch.num_heads; head++, number++) {
      if (number % context.num_threads != context.thread) continue;
      float* row = launch.command.outputs[0].row(launch.first_token(seq));
      merge_partials(launch, first, splits, head, row + int64_t(head) * launch.cache.value_dim);
    }
    first += splits;
  }
}

template <typename T>
void attend_all(const ThreadContext& context, const AttentionLaunch& launch) {
  const ContextSplitting splitting(launch);
  ItemFinder finder(launch, splitting);
  Worker<T> worker(launch, reinterpret_cast<float*>(launch.step.scratch(context)));
  WorkItem item;
  while (finder.find(context.take_chunk(), &item)) worker.run(item);
  if (splitting.num_partials(launch) == 0) return;
  context.barrier();
  merge_all(context, launch, splitting);
}

void attend_all(const ThreadContext& context, const AttentionLaunch& launch) {
  switch (launch.cache.dtype) {
    case DType::kBfloat16: return attend_all<Bfloat16>(context, launch);
    case DType::kFloat16: return attend_all<Float16>(context, launch);
    case DType::kInt8: return attend_all<Int8>(context, launch);
    case DType::kFloat8: return attend_all<Float8>(context, launch);
    default: return attend_all<float>(context, launch);
  }
}

ScratchBytes scratch_bytes(const Command& command, const ScratchQuery& query, bool is_latent) {
  const KvCache& cache = query.kv_caches[command.inputs[1].index];
  const int64_t group_size = command.ints[0] / command.ints[1];
  const int64_t rows = std::max(int64_t(1), kTileRows / group_size) * group_size;
  const int32_t query_dim = AttentionLaunch::query_dim_of(cache, is_latent);
  const auto sizes = Tiles::sizes(rows, AttentionLaunch::tile_tokens_of(cache), cache, query_dim);
  const int64_t tiles = std::accumulate(sizes.begin(), sizes.end(), int64_t(0));
  const int64_t partials = int64_t(kMaxPartials) * command.ints[0] * (cache.value_dim + 2);
  return {tiles * int64_t(sizeof(float)), partials * int64_t(sizeof(float))};
}

}  // namespace

// Parameters of both: query heads, KV heads, scale, window (0: none), soft cap (0: none).

/// q, cache, …, sinks? → output. Constants: ALiBi slopes.
void attention(const ThreadContext& context, const Command& command, const Step& step) {
  attend_all(context, AttentionLaunch(command, step, false));
}

ScratchBytes attention_scratch(const Command& command, const ScratchQuery& query) {
  return scratch_bytes(command, query, false);
}

/// q, cache, …, latent q → output.
void latent_attention(const ThreadContext& context, const Command& command, const Step& step) {
  attend_all(context, AttentionLaunch(command, step, true));
}

ScratchBytes latent_attention_scratch(const Command& command, const ScratchQuery& query) {
  return scratch_bytes(command, query, true);
}

}  // namespace needletail
