// attention: causal attention of a ragged batch over the paged cache, as flash attention: tiles of queries against tiles
// of keys and values, with a running softmax (Dao et al., "FlashAttention", 2022). All query heads of a KV head share a
// tile, so grouped heads read keys and values once. A decoded token's long context is split between threads.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "tile-product.h"

namespace needletail {
namespace {

/// Rows (queries x heads of the group) of a query tile, unless the group alone is larger.
constexpr int32_t kTileRows = 64;
/// Tokens of a KV tile, rounded to whole blocks.
constexpr int32_t kTileTokens = 64;
/// From this many rows on, a KV tile is converted to float32 once instead of at each use. Fewer rows read the cache's
/// blocks as they are, in longer tiles.
constexpr int32_t kMinRowsToConvert = 16;
constexpr int32_t kLongTile = kTileRows / kMinRowsToConvert;
/// A decoded token's context is cut into pieces of this many tokens, whatever the batch, so that its result does not
/// depend on the batch; longer ones only where a step would need more than kMaxPartials of them.
constexpr int32_t kSplitTokens = 512;
constexpr int32_t kMaxPartials = 512;

int32_t ceil_divide(int32_t a, int32_t b) { return (a + b - 1) / b; }

/// One launch, its parameters named.
struct Launch {
  const Command& command;
  const Step& step;
  const KvCache& cache;
  const GroupBatch& batch;
  int32_t num_heads, num_kv_heads, group_size;
  float scale;
  int32_t window;   // 0: none
  float softcap;    // 0: none
  const float* slopes;  // [num_heads] or null
  const float* sinks;   // [num_heads] or null
  /// Queries that meet the values, which are the rest of the keys; null: values are no keys.
  const Operand* latent_queries;
  int32_t query_dim;
  int32_t tile_queries;
  int32_t tile_tokens;
  int32_t tile_rows;

  Launch(const Command& command, const Step& step, bool is_latent)
      : command(command),
        step(step),
        cache(step.kv_cache(command.inputs[1])),
        batch(step.groups[cache.group]),
        num_heads(command.ints[0]),
        num_kv_heads(command.ints[1]),
        group_size(num_heads / num_kv_heads),
        scale(command.floats[2]),
        window(command.ints[3]),
        softcap(command.floats[4]),
        slopes(command.constants),
        sinks(!is_latent && command.inputs[5].is_present() ? command.inputs[5].row(0) : nullptr),
        latent_queries(is_latent ? &command.inputs[5] : nullptr),
        query_dim(query_dim_of(cache, is_latent)),
        tile_queries(std::max(1, kTileRows / group_size)),
        tile_tokens(tile_tokens_of(cache)),
        tile_rows(tile_queries * group_size) {}

  static int32_t tile_tokens_of(const KvCache& cache) {
    return std::max(1, kTileTokens / cache.block_size) * cache.block_size;
  }
  static int32_t query_dim_of(const KvCache& cache, bool is_latent) {
    return cache.key_dim + (is_latent ? cache.value_dim : 0);
  }
  int32_t first_token(int32_t seq) const { return step.cu_seqlens_q()[seq]; }
  int32_t num_queries(int32_t seq) const { return step.cu_seqlens_q()[seq + 1] - first_token(seq); }
  int32_t context_len(int32_t seq) const { return step.context_lens()[seq]; }
  /// Position of the sequence's query number `query` of this step.
  int32_t position(int32_t seq, int32_t query) const { return context_len(seq) - num_queries(seq) + query; }
  int32_t first_visible(int32_t position) const { return window ? std::max(0, position - window + 1) : 0; }
  int64_t block(int32_t seq, int32_t index) const {
    return batch.block_tables[int64_t(seq) * batch.max_blocks_per_seq + index];
  }
};

/// How decoded tokens' contexts are split in this step.
struct Splitting {
  int32_t tokens = kSplitTokens;

  explicit Splitting(const Launch& launch) {
    while (num_partials(launch) > kMaxPartials) tokens *= 2;
  }
  /// Pieces that sequence `seq`'s visible context is cut into; 1 for a sequence with several queries.
  int32_t num_splits(const Launch& launch, int32_t seq) const {
    if (launch.num_queries(seq) != 1) return 1;
    return ceil_divide(launch.context_len(seq) - first_piece(launch, seq), tokens);
  }
  /// Pieces start at multiples of their length.
  int32_t first_piece(const Launch& launch, int32_t seq) const {
    return launch.first_visible(launch.context_len(seq) - 1) / tokens * tokens;
  }
  /// Partial results that the step leaves per head.
  int32_t num_partials(const Launch& launch) const {
    int32_t total = 0;
    for (int32_t seq = 0; seq < launch.step.num_seqs; seq++) {
      const int32_t splits = num_splits(launch, seq);
      if (splits > 1) total += splits;
    }
    return total;
  }
};

/// What one thread does at a time: a tile of queries of one sequence and KV head against a range of its context.
struct WorkItem {
  int32_t seq, kv_head;
  int32_t first_query, num_queries;
  int32_t begin, end;  // positions of the context
  int32_t partial;     // −1: the result is whole
};

/// Finds the item of each rising number that a thread draws: sequences in order, heads, then splits or query tiles, the
/// last (and longest) first.
class ItemFinder {
 public:
  ItemFinder(const Launch& launch, const Splitting& splitting) : launch_(launch), splitting_(splitting) {}

  bool find(int64_t number, WorkItem* item) {
    for (; seq_ < launch_.step.num_seqs; advance()) {
      const int64_t index = number - first_number_;
      if (index < num_items()) {
        *item = item_at(int32_t(index));
        return true;
      }
    }
    return false;
  }

 private:
  int32_t pieces() const {
    const int32_t splits = splitting_.num_splits(launch_, seq_);
    return splits > 1 ? splits : ceil_divide(launch_.num_queries(seq_), launch_.tile_queries);
  }
  int64_t num_items() const { return int64_t(pieces()) * launch_.num_kv_heads; }
  void advance() {
    first_number_ += num_items();
    const int32_t splits = splitting_.num_splits(launch_, seq_);
    if (splits > 1) first_partial_ += splits;
    seq_++;
  }

  WorkItem item_at(int32_t index) const {
    const int32_t kv_head = index % launch_.num_kv_heads;
    const int32_t piece = pieces() - 1 - index / launch_.num_kv_heads;
    return splitting_.num_splits(launch_, seq_) > 1 ? split(kv_head, piece) : query_tile(kv_head, piece);
  }
  WorkItem split(int32_t kv_head, int32_t piece) const {
    const int32_t context_len = launch_.context_len(seq_);
    const int32_t start = splitting_.first_piece(launch_, seq_) + piece * splitting_.tokens;
    const int32_t begin = std::max(start, launch_.first_visible(context_len - 1));
    return {seq_, kv_head, 0, 1, begin, std::min(start + splitting_.tokens, context_len), first_partial_ + piece};
  }
  WorkItem query_tile(int32_t kv_head, int32_t piece) const {
    const int32_t first = piece * launch_.tile_queries;
    const int32_t count = std::min(launch_.tile_queries, launch_.num_queries(seq_) - first);
    const int32_t begin = launch_.first_visible(launch_.position(seq_, first));
    return {seq_, kv_head, first, count, begin, launch_.position(seq_, first + count - 1) + 1, -1};
  }

  const Launch& launch_;
  const Splitting& splitting_;
  int32_t seq_ = 0;
  int64_t first_number_ = 0;
  int32_t first_partial_ = 0;
};

/// A thread's tiles. Row r is query r / group_size, head r % group_size of the group.
struct Tiles {
  float* queries;     // [tile_rows, query_dim], scaled
  float* scores;      // [tile_rows, tile_tokens] or fewer rows of more tokens, then probabilities
  float* output;      // [tile_rows, value_dim], not yet divided by the sums
  float* largest;     // [tile_rows], of the scores so far
  float* sums;        // [tile_rows], of the probabilities so far
  float* keys;        // [query_dim, tile_tokens], where converted
  float* values;      // [tile_tokens, value_dim]

  Tiles(float* memory, int64_t rows, int64_t tokens, const KvCache& cache, int64_t query_dim) {
    const auto take = [&memory](int64_t size) {
      float* start = memory;
      memory += (size + 15) / 16 * 16;
      return start;
    };
    queries = take(rows * query_dim);
    scores = take(std::max<int64_t>(rows, kTileRows) * tokens);
    output = take(rows * cache.value_dim);
    largest = take(rows);
    sums = take(rows);
    keys = take(query_dim * tokens);
    values = take(tokens * cache.value_dim);
    end = memory;
  }
  float* end;
};

/// Where partial results lie: per partial and head the unnormalised output, then largest score and sum.
float* partial_result(const Launch& launch, int32_t partial, int32_t head) {
  const int64_t size = launch.cache.value_dim + 2;
  return reinterpret_cast<float*>(launch.step.shared_scratch) + (int64_t(partial) * launch.num_heads + head) * size;
}

/// What a head's sink adds to the sum of its probabilities, which are relative to the score `largest`.
float sink_share(const Launch& launch, int32_t head, float largest) {
  return launch.sinks ? std::exp(launch.sinks[head] - largest) : 0.0f;
}

template <typename T>
class Worker {
 public:
  Worker(const Launch& launch, float* scratch)
      : launch_(launch),
        cache_(launch.cache),
        tiles_(scratch, launch.tile_rows, launch.tile_tokens, launch.cache, launch.query_dim) {}

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
      const int64_t num_values = int64_t(std::min(cache_.block_size, end - offset)) * cache_.value_dim;
      convert(values, tiles_.values + int64_t(offset) * cache_.value_dim, num_values);
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
      const T* keys = cache_.keys<T>(launch_.block(item_.seq, (start + offset) / cache_.block_size), item_.kv_head);
      multiply_tile<T>({tiles_.queries, cache_.key_dim, keys, cache_.block_size, tiles_.scores + offset, tokens_,
                        cache_.key_dim}, rows_, cache_.block_size);
    }
  }
  void sum_blocks(int32_t start, int32_t begin, int32_t end) {
    for (int32_t offset = begin / cache_.block_size * cache_.block_size; offset < end; offset += cache_.block_size) {
      const int64_t block = launch_.block(item_.seq, (start + offset) / cache_.block_size);
      const int32_t first = std::max(begin, offset), last = std::min(end, offset + cache_.block_size);
      const T* values = cache_.values<T>(block, item_.kv_head) + int64_t(first - offset) * cache_.value_dim;
      multiply_tile<T>({tiles_.scores + first, tokens_, values, cache_.value_dim, tiles_.output,
                        cache_.value_dim, last - first}, rows_, cache_.value_dim);
    }
  }

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

  const Launch& launch_;
  const KvCache& cache_;
  Tiles tiles_;
  WorkItem item_;
  int32_t rows_ = 0;
  int32_t tokens_ = 0;
  bool converts_ = false;
};

/// Adds up the partial results of one head of a split sequence.
void merge_partials(const Launch& launch, int32_t first, int32_t count, int32_t head, float* to) {
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

void merge_all(const ThreadContext& context, const Launch& launch, const Splitting& splitting) {
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
void attend_all(const ThreadContext& context, const Launch& launch) {
  const Splitting splitting(launch);
  ItemFinder finder(launch, splitting);
  Worker<T> worker(launch, reinterpret_cast<float*>(launch.step.scratch(context)));
  WorkItem item;
  while (finder.find(context.take_chunk(), &item)) worker.run(item);
  if (splitting.num_partials(launch) == 0) return;
  context.barrier();
  merge_all(context, launch, splitting);
}

void attend_all(const ThreadContext& context, const Launch& launch) {
  switch (launch.cache.dtype) {
    case DType::kBfloat16: return attend_all<Bfloat16>(context, launch);
    case DType::kFloat16: return attend_all<Float16>(context, launch);
    default: return attend_all<float>(context, launch);
  }
}

ScratchBytes scratch_bytes(const Command& command, const ScratchQuery& query, bool is_latent) {
  const KvCache& cache = query.kv_caches[command.inputs[1].index];
  const int64_t group_size = command.ints[0] / command.ints[1];
  const int64_t rows = std::max(int64_t(1), kTileRows / group_size) * group_size;
  const Tiles tiles(nullptr, rows, Launch::tile_tokens_of(cache), cache, Launch::query_dim_of(cache, is_latent));
  const int64_t partials = int64_t(kMaxPartials) * command.ints[0] * (cache.value_dim + 2);
  return {reinterpret_cast<char*>(tiles.end) - static_cast<char*>(nullptr), partials * int64_t(sizeof(float))};
}

}  // namespace

// Parameters of both: query heads, KV heads, scale, window (0: none), soft cap (0: none).

/// q, cache, …, sinks? → output. Constants: ALiBi slopes.
void attention(const ThreadContext& context, const Command& command, const Step& step) {
  attend_all(context, Launch(command, step, false));
}

ScratchBytes attention_scratch(const Command& command, const ScratchQuery& query) {
  return scratch_bytes(command, query, false);
}

/// q, cache, …, latent q → output.
void latent_attention(const ThreadContext& context, const Command& command, const Step& step) {
  attend_all(context, Launch(command, step, true));
}

ScratchBytes latent_attention_scratch(const Command& command, const ScratchQuery& query) {
  return scratch_bytes(command, query, true);
}

}  // namespace needletail
