// Grouped products on tensor cores, with weights of 16 bits or codes of 8: linear-stream.cuh for each tile of a matrix's rows.
// A block finds its tile by counting all ids itself or, if LISTED, in what group_rows made. X: type of x, CODES: of the weight,
// X if it has 16-bit numbers, else with a scale for each output; Y: of the output, BIAS: of the bias. Rows of x and weight are
// multiples of 16 bytes, those of y stand beside each other. GATE: the function by which the first half of a matrix's outputs gates
// the second, which is y then.
#include "activations.cuh"
#include "expert-rows.cuh"
#include "linear-stream.cuh"
#include "stream-weights.cuh"

/// The tile's place among those of its matrix in `tile`; its rows, and where they begin in x.
struct Found {
  MatrixRows rows;
  int tile, row[TILE_ROWS];
  const u8* start[TILE_ROWS];

  __device__ __forceinline__ int num_rows() const { return min(TILE_ROWS, rows.end - rows.first - tile * TILE_ROWS); }
};

#if LISTED
__device__ __forceinline__ void find(Found& found, const int* order, const MatrixRows* tiles, const int* num_tiles) {
  if (threadIdx.x == 0 && blockIdx.x < *num_tiles) found.rows = tiles[blockIdx.x];
  if (threadIdx.x == 0) found.tile = blockIdx.x < *num_tiles ? blockIdx.x - found.rows.first_tile : -1;
  __syncthreads();
  if (found.tile >= 0 && threadIdx.x < found.num_rows())
    found.row[threadIdx.x] = order[found.rows.first + found.tile * TILE_ROWS + threadIdx.x];
}
#else
__device__ __forceinline__ void find(Found& found, const Ids& ids, int num_rows) {
  __shared__ int counts[MATRICES];
  count_rows(counts, ids, num_rows);
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x;
  found.tile = -1;
  __syncwarp();
  each_matrix(counts, [&](const MatrixRows& rows, int num_tiles) {
    const int tile = blockIdx.x - rows.first_tile;
    if (tile >= 0 && tile < num_tiles) found.rows = rows, found.tile = tile;
  });
  __syncwarp();
  if (found.tile < 0) return;
  int place = -found.tile * TILE_ROWS;
  for (int first = 0; first < num_rows; first += 32) {
    const int row = first + lane;
    const u32 ours = __ballot_sync(0xffffffffu, row < num_rows && ids(row) == found.rows.matrix);
    const int at = place + __popc(ours & ((1u << lane) - 1));
    if (ours >> lane & 1 && at >= 0 && at < TILE_ROWS) found.row[at] = row;
    place += __popc(ours);
  }
}
#endif

#if HAS_COPY_ENGINE
#define WEIGHT_PARAMETER const __grid_constant__ TensorMap weight
#else
#define WEIGHT_PARAMETER const u8* weight
#endif

/// Grid [tiles of rows, tiles of outputs].
extern "C" __global__ void __launch_bounds__(kReaders * 32 + 32)
    grouped_stream(WEIGHT_PARAMETER, const int* num_tokens, const X* x, i64 x_stride, const int* ids, i64 ids_stride,
                   const int* order, const MatrixRows* tiles, const int* num_tiles, const float* scales, const BIAS* bias, Y* y,
                   int slots, int inputs, int outputs, int columns_per_slot) {
  __shared__ Found found;
  extern __shared__ __align__(1024) u8 memory[];
  wait_for_previous();
#if LISTED
  find(found, order, tiles, num_tiles);
#else
  find(found, Ids{ids, ids_stride, slots}, *num_tokens * slots);
#endif
  __syncthreads();
  if (found.tile < 0) return;
  const int num_rows = found.num_rows();
  if (threadIdx.x < num_rows) {
    const int row = found.row[threadIdx.x];
    found.start[threadIdx.x] = reinterpret_cast<const u8*>(x + row / slots * x_stride + row % slots * columns_per_slot);
  }
  __syncthreads();
#ifdef GATE
  constexpr int kBoxes = 2;
#else
  constexpr int kBoxes = 1;
#endif
  typedef StreamLinear<StoredWeights<CODES>, ScatteredRows, kBoxes> Linear;
  const int first_output = blockIdx.y * Linear::kOutputs, matrix_rows = kBoxes * outputs;
  const i64 first_row = i64(found.rows.matrix) * matrix_rows;
#if HAS_COPY_ENGINE
  const Tiles weights{&weight, policy_to_drop()};
#else
  const int row_bytes = inputs * StoredWeights<CODES>::kItemBytes;
  const Tiles weights{weight, row_bytes, MATRICES * matrix_rows, row_bytes};
#endif
  const ScatteredRows rows{found.start, num_rows, 2 * inputs};
  const Linear linear{weights, rows, num_rows, inputs, outputs, int(first_row) + first_output, first_output, memory, outputs};
  const auto number = [&](float sum, i64 at) {
    return (scales ? sum * scales[at] : sum) + (bias ? to_float(bias[at]) : 0.0f);
  };
  const auto put = [&](int row, int output, float value) {
    y[i64(found.row[row]) * outputs + output] = from_float<Y>(value);
  };
#ifdef GATE
  linear.run([&](int row, int output, float gate, float up) {
    const i64 at = first_row + output;
    put(row, output, GATE(number(gate, at), 0.0f, 0.0f) * number(up, at + outputs));
  });
#else
  linear.run([&](int row, int output, float sum) { put(row, output, number(sum, first_row + output)); });
#endif
}
