// Grouped products on tensor cores, with weights of 16 bits or codes of 8: linear-stream.cuh over tiles of a matrix's rows and outputs,
// of which every block takes an equal share. Blocks list the tiles of up to COUNTED_ROWS rows themselves; if that is 0, group_rows
// has done so. X: type of x, CODES: of the weight, X if it has 16-bit numbers, else with a scale for each output; Y: of the output,
// BIAS: of the bias. Rows of x and weight are multiples of 16 bytes, those of y stand beside each other. GATE: the function by which
// the first half of a matrix's outputs gates the second, which is y then.
#include "activations.cuh"
#include "expert-rows.cuh"
#include "linear-stream.cuh"
#include "stream-weights.cuh"

#ifdef GATE
constexpr int kBoxes = 2;
#else
constexpr int kBoxes = 1;
#endif
constexpr int kOutputs = kTile / kBoxes;

/// Neighbours of all tiles, those of the same rows one after the other.
struct Share {
  static constexpr bool kByThreads = true;
  RowGroups groups;
  const X* x;
  i64 x_stride;
  int slots, columns_per_slot, inputs, outputs, first, count;
  const u8** starts;  // of the rows of x that are wanted, in shared memory

  /// `first_place`: of its first row among all, `matrix_row`: where its matrix begins in the weights.
  struct Tile { int first_row, first_output, num_rows, first_place, matrix_row; };

  __device__ __forceinline__ int num_output_tiles() const { return (outputs + kOutputs - 1) / kOutputs; }
  __device__ __forceinline__ int num_tiles() const { return count; }
  __device__ __forceinline__ Tile tile(int i) const {
    const int row_tile = (first + i) / num_output_tiles(), output = (first + i) % num_output_tiles() * kOutputs;
    const MatrixRows rows = groups.tiles[row_tile];
    const int place = rows.first + (row_tile - rows.first_tile) * TILE_ROWS, matrix_row = rows.matrix * kBoxes * outputs;
    return {matrix_row + output, output, min(TILE_ROWS, rows.end - place), place, matrix_row};
  }

  __device__ __forceinline__ void begin(const Tile& tile) const {
    __syncwarp();
    for (int i = threadIdx.x % 32; i < TILE_ROWS; i += 32) {
      const bool is_row = i < tile.num_rows;
      const int row = is_row ? groups.order[tile.first_place + i] : 0;
      const X* start = x + row / slots * x_stride + row % slots * columns_per_slot;
      starts[i] = is_row ? reinterpret_cast<const u8*>(start) : nullptr;
    }
    __syncwarp();
  }
  __device__ __forceinline__ void fill_x(u8* target, int byte, u64*) const {
    copy_rows(target, byte, TILE_ROWS, 2 * inputs, [&](int r) { return starts[r]; });
  }
};

#if HAS_COPY_ENGINE
#define WEIGHT_PARAMETER const __grid_constant__ TensorMap weight
#else
#define WEIGHT_PARAMETER const u8* weight
#endif

extern "C" __global__ void __launch_bounds__(kReaders * 32 + 32)
    grouped_stream(WEIGHT_PARAMETER, const int* num_tokens, const X* x, i64 x_stride, const int* ids, i64 ids_stride,
                   int* order, MatrixRows* tiles, int* num_tiles, const float* scales, const BIAS* bias, Y* y, int slots,
                   int inputs, int outputs, int columns_per_slot) {
  extern __shared__ __align__(1024) u8 memory[];
  typedef StreamLinear<StoredWeights<CODES>, Share, kBoxes> Linear;
  __shared__ float sums[DEPTH_GROUPS * kTokens * kSumStride];
  __shared__ const u8* starts[TILE_ROWS];
  wait_for_previous();
#if COUNTED_ROWS
  __shared__ int own_order[COUNTED_ROWS], own_num_tiles;
  __shared__ MatrixRows own_tiles[COUNTED_ROWS / TILE_ROWS + (MATRICES < COUNTED_ROWS ? MATRICES : COUNTED_ROWS)];
  const RowGroups groups{own_order, own_tiles, &own_num_tiles};
  group({ids, ids_stride, slots}, *num_tokens * slots, 32, groups);
#else
  const RowGroups groups{order, tiles, num_tiles};
#endif
  Share share{groups, x, x_stride, slots, columns_per_slot, inputs, outputs, 0, 0, starts};
  const i64 total = i64(*groups.num_tiles) * share.num_output_tiles();
  share.first = total * blockIdx.x / gridDim.x;
  share.count = total * (blockIdx.x + 1) / gridDim.x - share.first;
#if HAS_COPY_ENGINE
  const Tiles weights{&weight, policy_to_drop()};
#else
  const int row_bytes = inputs * StoredWeights<CODES>::kItemBytes;
  const Tiles weights{weight, row_bytes, MATRICES * kBoxes * outputs, row_bytes};
#endif
  const Linear linear{weights, share, inputs, outputs, memory, sums, outputs};
  const auto number = [&](float sum, i64 at) {
    return (scales ? sum * scales[at] : sum) + (bias ? to_float(bias[at]) : 0.0f);
  };
  const auto put = [&](const Share::Tile& tile, int row, int output, float value) {
    y[i64(groups.order[tile.first_place + row]) * outputs + output] = from_float<Y>(value);
  };
#ifdef GATE
  linear.run([&](const Share::Tile& tile, int row, int output, float gate, float up) {
    const i64 at = tile.matrix_row + output;
    put(tile, row, output, GATE(number(gate, at), 0.0f, 0.0f) * number(up, at + outputs));
  });
#else
  linear.run([&](const Share::Tile& tile, int row, int output, float sum) {
    put(tile, row, output, number(sum, tile.matrix_row + output));
  });
#endif
}
