// Products with few rows of x, bound by reading the weights: a block makes kTile outputs of up to X_ROWS rows. One warp keeps a
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
/// `Rows` says where rows of x lie: Tiles or ScatteredRows.
/// kBoxes: 2 if a tile's second half of rows lies `half_rows` behind the first one's, and gives the same outputs another sum.
template <typename Weights, typename Rows = Tiles, int kBoxes = 1> struct StreamLinear {
  static constexpr int kWeightTiles = kAtoms / Weights::kAtoms;
  static constexpr int kWeightBytes = kWeightTiles * kTile * kAtomBytes, kXBytes = kAtoms * kTokens * kAtomBytes;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kOutputs = kTile / kBoxes;
  using StageRing = Ring<STAGES, kReaders, Rows::kByThreads>;

  const Tiles weights;
  const Rows x;
  const int num_rows, inputs, outputs;
  const int first_row, first_output;  // of the block's tile: in the weights, in y
  u8* memory;                         // STAGES stages, then the ring
  const int half_rows = 0;

  __device__ __forceinline__ StageRing& ring() const {
    return *reinterpret_cast<StageRing*>(memory + STAGES * kStageBytes);
  }
  __device__ __forceinline__ int num_turns() const { return (inputs + DEPTH - 1) / DEPTH; }
  __device__ __forceinline__ u8* stage(int turn) const { return memory + turn % STAGES * kStageBytes; }

  __device__ __forceinline__ void fill() const {
    const int early = min(num_turns(), STAGES);
    const auto fill_weights = [&](int turn) {
      ring().begin_fill(turn, kWeightBytes + (Rows::kByThreads ? 0 : kAtoms * X_ROWS * kAtomBytes));
#pragma unroll
      for (int i = 0; i < kWeightTiles; i++)
#pragma unroll
        for (int box = 0; box < kBoxes; box++)
          weights.fill(stage(turn) + (i * kTile + box * kOutputs) * kAtomBytes, first_row + box * half_rows,
                       (turn * kWeightTiles + i) * kAtomBytes, kOutputs, Weights::kItemBytes, &ring().full[turn % STAGES]);
    };
    const auto fill_x = [&](int turn) {
#pragma unroll
      for (int i = 0; i < kAtoms; i++)
        x.fill(stage(turn) + kWeightBytes + i * kTokens * kAtomBytes, 0, (turn * kAtoms + i) * kAtomBytes, X_ROWS, 2,
               &ring().full[turn % STAGES]);
      ring().end_fill(turn);
    };
    for (int turn = 0; turn < early; turn++) fill_weights(turn);
    wait_for_previous();
    for (int turn = 0; turn < early; turn++) fill_x(turn);
    for (int turn = early; turn < num_turns(); turn++) fill_weights(turn), fill_x(turn);
  }

  /// Rows of x beyond the step's hold what lay there: they are columns of their own, which nobody reads.
  __device__ __forceinline__ void multiply(float (&sum)[ROW_TILES][kXTiles][4]) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const int weight_row = (warp % ROW_GROUPS * 16 * ROW_TILES + g) * kAtomBytes;
    for (int turn = 0; turn < num_turns(); turn++) {
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

  /// [DEPTH_GROUPS][kTokens][kSumStride], where the stages were.
  __device__ __forceinline__ void put_sums(const float (&sum)[ROW_TILES][kXTiles][4]) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    float* to = reinterpret_cast<float*>(memory) + warp / ROW_GROUPS * kTokens * kSumStride +
                warp % ROW_GROUPS * 16 * ROW_TILES + g + 2 * c * kSumStride;
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
      for (int n = 0; n < kXTiles; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) to[(8 * n + j % 2) * kSumStride + 16 * t + j / 2 * 8] = sum[t][n][j];
  }

  __device__ __forceinline__ float sum_at(int row, int at) const {
    const float* sums = reinterpret_cast<const float*>(memory) + row * kSumStride + at;
    float total = 0.0f;
#pragma unroll
    for (int group = 0; group < DEPTH_GROUPS; group++) total += sums[group * kTokens * kSumStride];
    return total;
  }

  template <typename F> __device__ __forceinline__ void each_sum(F f) const {
    const int rows = min(num_rows, X_ROWS);
    for (int i = threadIdx.x; i < kOutputs * rows; i += blockDim.x) {
      const int row = i / kOutputs, at = i % kOutputs, output = first_output + at;
      if (output >= outputs) continue;
      if constexpr (kBoxes == 1)
        f(row, output, sum_at(row, at));
      else
        f(row, output, sum_at(row, at), sum_at(row, at + kOutputs));
    }
  }

  /// Calls write(row, output, sum) for every output of the tile, with both sums if there are two, on one of the block's threads.
  template <typename F> __device__ __forceinline__ void run(F write) const {
    if (threadIdx.x == 0) ring().init();
    __syncthreads();
    let_next_start();
    float sum[ROW_TILES][kXTiles][4] = {};
    if (threadIdx.x / 32 == kReaders)
      fill();
    else
      multiply(sum);
    __syncthreads();
    if (threadIdx.x / 32 < kReaders) put_sums(sum);
    __syncthreads();
    each_sum(write);
  }
};
