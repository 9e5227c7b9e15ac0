// How attention is cut into pieces of work: tiles of queries, and splits of the long contexts of decoded tokens.
#pragma once

#include <algorithm>

#include "program.h"

namespace needletail {

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

inline int32_t ceil_divide(int32_t a, int32_t b) { return (a + b - 1) / b; }

/// One launch, its parameters named.
struct AttentionLaunch {
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

  AttentionLaunch(const Command& command, const Step& step, bool is_latent)
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
struct ContextSplitting {
  int32_t tokens = kSplitTokens;

  explicit ContextSplitting(const AttentionLaunch& launch) {
    while (num_partials(launch) > kMaxPartials) tokens *= 2;
  }
  /// Pieces that sequence `seq`'s visible context is cut into; 1 for a sequence with several queries.
  int32_t num_splits(const AttentionLaunch& launch, int32_t seq) const {
    if (launch.num_queries(seq) != 1) return 1;
    return ceil_divide(launch.context_len(seq) - first_piece(launch, seq), tokens);
  }
  /// Pieces start at multiples of their length.
  int32_t first_piece(const AttentionLaunch& launch, int32_t seq) const {
    return launch.first_visible(launch.context_len(seq) - 1) / tokens * tokens;
  }
  /// Partial results that the step leaves per head.
  int32_t num_partials(const AttentionLaunch& launch) const {
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
  ItemFinder(const AttentionLaunch& launch, const ContextSplitting& splitting) : launch_(launch), splitting_(splitting) {}

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

  const AttentionLaunch& launch_;
  const ContextSplitting& splitting_;
  int32_t seq_ = 0;
  int64_t first_number_ = 0;
  int32_t first_partial_ = 0;
};

}  // namespace needletail
