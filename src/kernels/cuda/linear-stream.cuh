// Products with few rows of x, bound by reading the weights: a block makes tiles of kTile outputs of up to X_ROWS rows. One warp keeps a
// ring of weights and x filled, before the previous launch is done as far as weights go; the others multiply on tensor cores,
// ROW_GROUPS × DEPTH_GROUPS of them, which divide the outputs and the inputs.
//
// The sum over inputs may go in any order, so neighbours serve as a lane's share of products: of 64 inputs lane 4g + c takes
// 16c to 16c + 15, of weight rows g and g + 8 and of row g of x.
// ROW_TILES: tiles of 16 outputs that a warp makes. DEPTH: inputs of a stage, a multiple of 64.
#pragma once
#include "pipeline.cuh"

constexpr int kAtom = 64;  // inputs of x in a row of a tile
constexpr int kAtoms = DEPTH / kAtom;
constexpr int kXTiles = (X_ROWS + 7) / 8, kTokens = 8 * kXTiles;
constexpr int kReaders = ROW_GROUPS * DEPTH_GROUPS;
constexpr int kTile = 16 * ROW_TILES * ROW_GROUPS;
constexpr int kSumStride = kTile + 4;  // floats from a row's partial sums to the next one's

/// `Weights` says how weights become 16-bit numbers:
///   kAtoms: atoms of x that a row of a tile of weights lasts for; kItemBytes: of an element of its tensor map;
///   decode(tile row, row % 8, atom, c, half): eight weights, two to a word: inputs 16c + 8 · half and on of the atom.
/// `Work` says which tiles a block makes, and where their rows of x are:
///   num_tiles(); tile(i): first_row of the weights, first_output of y, num_rows of x;
///   begin(tile), fill_x(target, byte, full): the filling warp's, before a tile and for each kAtomBytes of its rows of x;
///   kByThreads: whether threads copy those.
/// kBoxes: 2 if a tile's second half of rows lies `half_rows` behind the first one's, and gives the same outputs another sum.
template <typename Weights, typename Work, int kBoxes = 1> struct StreamLinear {
  static constexpr int kWeightTiles = kAtoms / Weights::kAtoms;
  static constexpr int kWeightBytes = kWeightTiles * kTile * kAtomBytes, kXBytes = kAtoms * kTokens * kAtomBytes;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kOutputs = kTile / kBoxes;
  using StageRing = Ring<STAGES, kReaders, Work::kByThreads>;

  const Tiles weights;
  const Work& work;
  const int inputs, outputs;
  u8* memory;   // STAGES stages, then the ring
  float* sums;  // a block of one tile may have them where the stages are
  const int half_rows = 0;

  __device__ __forceinline__ StageRing& ring() const {
    return *reinterpret_cast<StageRing*>(memory + STAGES * kStageBytes);
  }
  __device__ __forceinline__ int num_parts() const { return (inputs + DEPTH - 1) / DEPTH; }
  __device__ __forceinline__ u8* stage(int turn) const { return memory + turn % STAGES * kStageBytes; }

  __device__ __forceinline__ void fill_weights(int turn, int row, int part) const {
    ring().begin_fill(turn, kWeightBytes + (Work::kByThreads ? 0 : kAtoms * X_ROWS * kAtomBytes));
#pragma unroll
    for (int i = 0; i < kWeightTiles; i++)
#pragma unroll
      for (int box = 0; box < kBoxes; box++)
        weights.fill(stage(turn) + (i * kTile + box * kOutputs) * kAtomBytes, row + box * half_rows,
                     (part * kWeightTiles + i) * kAtomBytes, kOutputs, Weights::kItemBytes, &ring().full[turn % STAGES]);
  }
  __device__ __forceinline__ void fill_x(int turn, int part) const {
#pragma unroll
    for (int i = 0; i < kAtoms; i++)
      work.fill_x(stage(turn) + kWeightBytes + i * kTokens * kAtomBytes, (part * kAtoms + i) * kAtomBytes,
                  &ring().full[turn % STAGES]);
    ring().end_fill(turn);
  }

  __device__ __forceinline__ void fill() const {
    int turn = 0;
    for (int i = 0; i < work.num_tiles(); i++) {
      const auto tile = work.tile(i);
      const int row = tile.first_row;
      int part = 0;
      work.begin(tile);
      if (i == 0) {
        const int early = min(num_parts(), STAGES);
        for (int j = 0; j < early; j++) fill_weights(j, row, j);
        wait_for_previous();
        for (; part < early; part++, turn++) fill_x(turn, part);
      }
      for (; part < num_parts(); part++, turn++) fill_weights(turn, row, part), fill_x(turn, part);
    }
  }

  /// Rows of x beyond the step's hold what lay there: they are columns of their own, which nobody reads.
  __device__ __forceinline__ void multiply(int& turn, float (&sum)[ROW_TILES][kXTiles][4]) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const int weight_row = (warp % ROW_GROUPS * 16 * ROW_TILES + g) * kAtomBytes;
    for (int part = 0; part < num_parts(); part++, turn++) {
      ring().wait_full(turn);
      const u8 *w = stage(turn) + weight_row, *b = stage(turn) + kWeightBytes + g * kAtomBytes;
#pragma unroll
      for (int i = 0; i < kAtoms; i += DEPTH_GROUPS) {
        const int atom = i + warp / ROW_GROUPS;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          uint4 low[ROW_TILES], high[ROW_TILES];
          const u8* tile = w + atom / Weights::kAtoms * kTile * kAtomBytes;
#pragma unroll
          for (int t = 0; t < ROW_TILES; t++) {
            low[t] = Weights::decode(tile + 16 * t * kAtomBytes, g, atom % Weights::kAtoms, c, half);
            high[t] = Weights::decode(tile + (16 * t + 8) * kAtomBytes, g, atom % Weights::kAtoms, c, half);
          }
#pragma unroll
          for (int n = 0; n < kXTiles; n++) {
            const uint4 v = *reinterpret_cast<const uint4*>(b + (atom * kTokens + 8 * n) * kAtomBytes +
                                                            ((2 * c + half) ^ g) * 16);
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++) {
              mma<X>(sum[t][n], {low[t].x, high[t].x, low[t].y, high[t].y}, v.x, v.y);
              mma<X>(sum[t][n], {low[t].z, high[t].z, low[t].w, high[t].w}, v.z, v.w);
            }
          }
        }
      }
      ring().release(turn);
    }
  }

  /// [DEPTH_GROUPS][kTokens][kSumStride].
  __device__ __forceinline__ void put_sums(const float (&sum)[ROW_TILES][kXTiles][4]) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    float* to = sums + warp / ROW_GROUPS * kTokens * kSumStride +
                warp % ROW_GROUPS * 16 * ROW_TILES + g + 2 * c * kSumStride;
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
      for (int n = 0; n < kXTiles; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) to[(8 * n + j % 2) * kSumStride + 16 * t + j / 2 * 8] = sum[t][n][j];
  }

  __device__ __forceinline__ float sum_at(int row, int at) const {
    float total = 0.0f;
#pragma unroll
    for (int group = 0; group < DEPTH_GROUPS; group++) total += sums[(group * kTokens + row) * kSumStride + at];
    return total;
  }

  template <typename Tile, typename F> __device__ __forceinline__ void each_sum(const Tile& tile, F f) const {
    const int rows = min(tile.num_rows, X_ROWS);
    for (int i = threadIdx.x; i < kOutputs * rows; i += kReaders * 32) {
      const int row = i / kOutputs, at = i % kOutputs, output = tile.first_output + at;
      if (output >= outputs) continue;
      if constexpr (kBoxes == 1)
        f(tile, row, output, sum_at(row, at));
      else
        f(tile, row, output, sum_at(row, at), sum_at(row, at + kOutputs));
    }
  }

  static __device__ __forceinline__ void wait_for_readers() { asm volatile("bar.sync 1, %0;" ::"n"(kReaders * 32) : "memory"); }

  /// Calls write(tile, row, output, sum) for every output, with both sums if there are two, on one of the block's threads.
  template <typename F> __device__ __forceinline__ void run(F write) const {
    if (threadIdx.x == 0) ring().init();
    __syncthreads();
    let_next_start();
    if (threadIdx.x / 32 == kReaders) return fill();
    int turn = 0;
    for (int i = 0; i < work.num_tiles(); i++) {
      float sum[ROW_TILES][kXTiles][4] = {};
      multiply(turn, sum);
      wait_for_readers();
      put_sums(sum);
      wait_for_readers();
      each_sum(work.tile(i), write);
    }
  }
};

/// The tile of a block that makes no other, of an x whose rows are the step's.
struct OneTile {
  static constexpr bool kByThreads = Tiles::kByThreads;
  struct Tile { int first_row, first_output, num_rows; };
  const Tiles x;
  const int rows;

  __device__ __forceinline__ int num_tiles() const { return 1; }
  __device__ __forceinline__ Tile tile(int) const { return {int(blockIdx.x) * kTile, int(blockIdx.x) * kTile, rows}; }
  __device__ __forceinline__ void begin(const Tile&) const {}
  __device__ __forceinline__ void fill_x(u8* target, int byte, u64* full) const { x.fill(target, 0, byte, X_ROWS, 2, full); }
};
