// linear and quantizedLinear on Hopper, alone or with the gatedActivation after them (GATE: its function): tiles of weight and x
// come by the copy engine, warpgroups multiply them in shared memory. A block takes tile after tile of OUTPUTS rows of the weight,
// 64 to a warpgroup, by TOKENS rows of x, 16 to 256, and fetches the next tile's first bytes while it writes the last one's results.
// BOXES: copies in which a tile's rows of x come; a tile may do with fewer: where one matrix's tiles are left over, for half of the
// blocks or fewer, they are done as two, and the last of several matrices' as far as it is filled. SHARED: 1 if blocks
// take equal shares of all tiles' inputs instead: who begins a tile adds the sums that others leave of it. X: of x and weight, numbers
// of 16 bits or codes, which have scales; Y: of the output, which with GATE may be codes under a scale known beforehand; BIAS: of the
// bias; STAGES: parts of tiles on their way; PROMOTE: parts after which sums move to float32 registers, for the tensor cores add fp8
// products with fewer bits; 0: never. IS_ALIGNED: 1 if rows of y are multiples of 16 bytes. MATRICES: of grouped products, how
// many matrices the weight stacks; x is in their order, and group-rows.cu made a list of tiles.
#include "activations.cuh"
#include "quantize.cuh"
#ifdef MATRICES
#include "expert-rows.cuh"
#endif
#include "wgmma.cuh"

template <typename Item> struct SumOf { typedef float type; };
template <> struct SumOf<int8> { typedef int type; };
typedef SumOf<X>::type Total;

#ifdef GATE
constexpr bool kIsGated = true;
__device__ __forceinline__ float activate(float x) { return GATE(x, 0.0f, 0.0f); }
#else
constexpr bool kIsGated = false;
__device__ __forceinline__ float activate(float x) { return x; }
#endif
constexpr bool kHasScales = sizeof(X) == 1, kYieldsCodes = sizeof(Y) == 1;
static_assert(kIsGated || !kYieldsCodes, "codes of gated results alone");
constexpr int kDepth = 128, kGroups = OUTPUTS / 64, kConsumers = 128 * kGroups;
constexpr int kBox = TOKENS / BOXES;  // in rows of x
/// Columns of y that a warp, a warpgroup and a block make. A gated weight's rows come eight of the gate, then eight of the other half.
constexpr int kWarpWidth = kIsGated ? 8 : 16, kGroupWidth = 4 * kWarpWidth, kBlockWidth = kGroups * kGroupWidth;
/// Tokens whose results a warpgroup turns at a time.
constexpr int kTurned = TOKENS < 128 / sizeof(Y) ? TOKENS : 128 / sizeof(Y), kPitch = kGroupWidth + 16 / sizeof(Y);

struct Stage {
  u8 weight[OUTPUTS][kDepth], x[TOKENS][kDepth];
};
struct Memory {
  Stage stages[STAGES];
  Y turned[kGroups][kTurned][kPitch];
  float x_scales[kHasScales ? TOKENS : 1];
  Ring<STAGES, kConsumers / 32> ring;
};

/// A tile: its first row of x and the end of rows, its first column of y, the matrix, and how many boxes of x it takes, a power of
/// two; is_shared: others take the same rows of the weight. Of the tile's parts, num_parts from `part` on.
struct Place {
  int row, end, output, matrix, boxes;
  bool is_shared;
  int part, num_parts;
};

/// What tiles there are.
struct Problem {
  int rows, inputs, outputs;

  __device__ __forceinline__ int matrix_rows() const { return kIsGated ? 2 * outputs : outputs; }
#ifdef MATRICES
  const int* order;
  const MatrixRows* tiles;
  int num_tiles;
#endif
};

/// The tiles in the order in which blocks take them: those that share rows of the weight follow one another.
struct Schedule {
  const Problem& problem;
  int token_tiles, output_tiles, num_tiles, num_whole, tile_parts;

  __device__ __forceinline__ Schedule(const Problem& problem) : problem(problem) {
    output_tiles = (problem.outputs + kBlockWidth - 1) / kBlockWidth;
#ifdef MATRICES
    token_tiles = problem.num_tiles;
#else
    token_tiles = (problem.rows + TOKENS - 1) / TOKENS;
#endif
    num_tiles = num_whole = token_tiles * output_tiles;
#if BOXES > 1 && !defined(MATRICES)
    const int left = num_tiles % gridDim.x;
    if (2 * left <= gridDim.x) num_whole -= left;
#endif
    tile_parts = (problem.inputs * int(sizeof(X)) + kDepth - 1) / kDepth;
  }

#ifdef MATRICES
  __device__ __forceinline__ Place tile(int i) const {
    const MatrixRows rows = problem.tiles[i / output_tiles];
    const int num_shared = (rows.end - rows.first + TOKENS - 1) / TOKENS, at = i - rows.first_tile * output_tiles;
    // The last tile of rows is the smallest: blocks take it in turns.
    const int output_tile = at / num_shared, turn = output_tile * num_shared / gridDim.x;
    const int row = rows.first + (at + turn) % num_shared * TOKENS;
    int boxes = BOXES;
    while (boxes > 1 && rows.end - row <= boxes / 2 * kBox) boxes /= 2;
    return {row, rows.end, output_tile * kBlockWidth, rows.matrix, boxes, num_shared > 1, 0, tile_parts};
  }
#else
  __device__ __forceinline__ Place tile(int i) const {
    return {i % token_tiles * TOKENS, problem.rows, i / token_tiles * kBlockWidth, 0, BOXES, token_tiles > 1, 0, tile_parts};
  }
#endif

#if SHARED
  /// Where a block's share begins in the row of all tiles' parts.
  __device__ __forceinline__ int begin(int block) const {
    const int num_parts = num_tiles * tile_parts, num_blocks = gridDim.x;
    return num_parts / num_blocks * block + min(block, num_parts % num_blocks);
  }

  template <typename F> __device__ __forceinline__ void each(F f) const {
    const int end = begin(blockIdx.x + 1);
    for (int at = begin(blockIdx.x); at < end;) {
      Place place = tile(at / tile_parts);
      place.part = at % tile_parts, place.num_parts = min(end - at, tile_parts - place.part);
      at += place.num_parts;
      f(place);
    }
  }
#else
  /// f(place) for each of this block's tiles.
  template <typename F> __device__ __forceinline__ void each(F f) const {
    for (int i = blockIdx.x; i < num_whole; i += gridDim.x) f(tile(i));
#if BOXES > 1 && !defined(MATRICES)
    const int left = blockIdx.x;
    if (left < 2 * (num_tiles - num_whole)) {
      Place place = tile(num_whole + left / 2);
      place.boxes /= 2, place.row += left % 2 * place.boxes * kBox;
      f(place);
    }
#endif
  }
#endif
};

/// The filling warp.
struct Producer {
  Memory& memory;
  const TensorMap* x;
  const TensorMap* weight;
  const Schedule& schedule;
  int turn = 0;

  __device__ __forceinline__ void fill_weight(int turn, const Place& place, int part) const {
    Stage& stage = memory.stages[turn % STAGES];
    u64* full = &memory.ring.full[turn % STAGES];
    memory.ring.begin_fill(turn, sizeof(stage.weight) + place.boxes * kBox * kDepth);
    const u64 policy = place.is_shared ? policy_to_keep() : policy_to_drop();
    const int item = (place.part + part) * (kDepth / sizeof(X));
    if (kIsGated)
      copy_gated_box(stage.weight, weight, item, place.output / 8, place.matrix, full, policy);
    else
      copy_box(stage.weight, weight, item, place.matrix * schedule.problem.matrix_rows() + place.output, full, policy);
  }
  __device__ __forceinline__ void fill_x(int turn, const Place& place, int part) const {
    Stage& stage = memory.stages[turn % STAGES];
    const int item = (place.part + part) * (kDepth / sizeof(X));
#pragma unroll
    for (int at = 0; at < TOKENS; at += kBox)
      if (at < place.boxes * kBox) copy_box(stage.x[at], x, item, place.row + at, &memory.ring.full[turn % STAGES], policy_to_keep());
  }

  __device__ __forceinline__ void run() {
    schedule.each([&](const Place& place) {
      int part = 0;
      if (turn == 0) {
        const int early = min(place.num_parts, STAGES);
        for (int i = 0; i < early; i++) fill_weight(i, place, i);
        wait_for_previous();
        for (; part < early; part++, turn++) fill_x(turn, place, part);
      }
      for (; part < place.num_parts; part++, turn++)
        fill_weight(turn, place, part), fill_x(turn, place, part);
    });
  }
};

/// Adds up a tile; `turn` counts the parts that have come.
template <int kSize>
__device__ __forceinline__ void multiply(Memory& memory, int group, int& turn, int num_parts, Total (&sum)[kSize]) {
#pragma unroll
  for (int j = 0; j < kSize; j++) sum[j] = 0;
#if PROMOTE
  Total partial[kSize];
#else
  Total(&partial)[kSize] = sum;
#endif
  for (int part = 0; part < num_parts; part++, turn++) {
#if PROMOTE
    const bool is_first = part % PROMOTE == 0;
#else
    constexpr bool is_first = false;
#endif
    memory.ring.wait_full(turn);
    Stage& stage = memory.stages[turn % STAGES];
    const u64 a = describe_tile(stage.weight[64 * group]), b = describe_tile(stage.x);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDepth / 32; k++) wgmma<X, Total, kSize>(partial, a + 2 * k, b + 2 * k, !is_first || k > 0);
    commit_products();
#if PROMOTE
    wait_products<0>();
    memory.ring.release(turn);
    if (part % PROMOTE == PROMOTE - 1 || part == num_parts - 1)
#pragma unroll
      for (int j = 0; j < kSize; j++) sum[j] += partial[j];
#else
    // The products before these are done: their parts are used.
    wait_products<1>();
    if (part > 0) memory.ring.release(turn - 1);
#endif
  }
#if !PROMOTE
  wait_products<0>();
  if (num_parts > 0) memory.ring.release(turn - 1);
#endif
}

#if SHARED
/// Sums of tiles that other blocks have begun, handed over warp by warp.
struct LeftSums {
  Vec<Total, 4>* sums;  // [blocks][TOKENS / 8][kConsumers]
  int* are_left;        // [blocks][kConsumers / 32] zeros, before and after
  const Schedule& schedule;

  __device__ __forceinline__ Vec<Total, 4>* sums_of(int block) const {
    return sums + block * (TOKENS / 8) * kConsumers + threadIdx.x;
  }
  __device__ __forceinline__ int* flag_of(int block) const { return are_left + block * (kConsumers / 32) + threadIdx.x / 32; }

  template <int kSize> __device__ __forceinline__ void leave(const Total (&sum)[kSize]) const {
#pragma unroll
    for (int j = 0; j < kSize / 4; j++)
      store(reinterpret_cast<Total*>(sums_of(blockIdx.x) + j * kConsumers), load<4>(sum + 4 * j));
    __syncwarp();
    if (threadIdx.x % 32 == 0)
      asm volatile("st.release.gpu.b32 [%0], 1;" ::"l"(flag_of(blockIdx.x)) : "memory");
  }

  /// What blocks behind this one leave of a tile that this one has begun.
  template <int kSize> __device__ __forceinline__ void add(const Place& place, Total (&sum)[kSize]) const {
    for (int block = blockIdx.x + 1, parts = place.num_parts; parts < schedule.tile_parts; block++) {
      parts += schedule.begin(block + 1) - schedule.begin(block);
      wait(flag_of(block));
#pragma unroll
      for (int j = 0; j < kSize / 4; j++) {
        const Vec<Total, 4> others = load<4>(reinterpret_cast<const Total*>(sums_of(block) + j * kConsumers));
#pragma unroll
        for (int i = 0; i < 4; i++) sum[4 * j + i] += others.at[i];
      }
    }
  }

 private:
  static __device__ __forceinline__ void wait(int* flag) {
    if (threadIdx.x % 32 == 0) {
      int is_left = 0;
      while (!is_left) asm volatile("ld.acquire.gpu.b32 %0, [%1];" : "=r"(is_left) : "l"(flag) : "memory");
      *flag = 0;
    }
    __syncwarp();
  }
};
#endif

__device__ __forceinline__ void sync_consumers() { asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory"); }
__device__ __forceinline__ void sync_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory"); }

/// What becomes of sums on their way to y.
struct Epilogue {
  Memory& memory;
  const float* scales;  // of the weight's rows, if those are codes
  const BIAS* bias;     // may be null
  Y* y;
  i64 y_stride;
  float* y_scales;
  i64 y_scales_stride;
  float y_scale;  // of codes
  const Problem& problem;
#if SHARED
  LeftSums left;
#endif
  float scale[2], offset[2];

  /// Of the two rows of the weight that this thread has; ahead of the products, beside which they come.
  __device__ __forceinline__ void read_scales(const Place& place) {
    const int outputs = problem.outputs;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int column = place.output + threadIdx.x / 32 * kWarpWidth + threadIdx.x % 32 / 4 + (kIsGated ? 0 : 8 * half);
      const int at = place.matrix * problem.matrix_rows() + min(column, outputs - 1) + (kIsGated ? half * outputs : 0);
      scale[half] = kHasScales ? scales[at] : 1.0f;
      offset[half] = bias ? to_float(bias[at]) : 0.0f;
    }
  }

  __device__ __forceinline__ float number(Total sum, int half, float x_scale) const {
    return kHasScales ? float(sum) * scale[half] * x_scale + offset[half] : float(sum) + offset[half];
  }

  /// Turns results of 16 tokens in shared memory, so that rows of y are written in whole lines. Out is Y.
  template <typename Out> __device__ __forceinline__ void turn(const Total* sum, int token, Out (*turned)[kPitch]) const {
    const int lane = threadIdx.x % 32, c = lane % 4, column = threadIdx.x / 32 % 4 * kWarpWidth;
    float x_scale[2][2], result[2][2][2];  // [8 tokens each][half][token]
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        x_scale[i][j] = kHasScales ? memory.x_scales[token + 8 * i + 2 * c + j] : 1.0f;
#pragma unroll
        for (int half = 0; half < 2; half++) result[i][half][j] = number(sum[4 * i + 2 * half + j], half, x_scale[i][j]);
        if (kIsGated) result[i][0][j] = activate(result[i][0][j]) * result[i][1][j];
      }
    if constexpr (sizeof(Out) == 1) {
      const float factor = 1.0f / y_scale;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const Vec<Out, 2> codes = encode<Out>({result[i][0][0] * factor, result[i][0][1] * factor});
#pragma unroll
        for (int j = 0; j < 2; j++) turned[8 * i + 2 * c + j][column + lane / 4] = codes.at[j];
      }
    } else if constexpr (sizeof(Out) == 4) {
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < (kIsGated ? 1 : 2); half++)
#pragma unroll
          for (int j = 0; j < 2; j++) 
            turned[8 * i + 2 * c + j][column + 8 * half + lane / 4] = from_float<Out>(result[i][half][j]);
    } else if constexpr (kIsGated) {
      store_tiles_transposed(&turned[lane % 16][column], pack<Out>(result[0][0][0], result[0][0][1]),
                             pack<Out>(result[1][0][0], result[1][0][1]));
    } else {
      store_tiles_transposed(&turned[lane / 16 * 8 + lane % 8][column + lane / 8 % 2 * 8],
                             pack<Out>(result[0][0][0], result[0][0][1]), pack<Out>(result[0][1][0], result[0][1][1]),
                             pack<Out>(result[1][0][0], result[1][0][1]), pack<Out>(result[1][1][0], result[1][1][1]));
    }
  }

  /// Of y, where a row of x goes.
  __device__ __forceinline__ i64 row_of(int row) const {
#ifdef MATRICES
    return problem.order[row];
#else
    return row;
#endif
  }

  /// Of kCount tokens and the warpgroup's columns.
  template <int kCount>
  __device__ __forceinline__ void write(int row, int end, int output, const Y (*turned)[kPitch]) const {
    constexpr int kVec = 16 / sizeof(Y), kPieces = kGroupWidth / kVec;
#pragma unroll
    for (int i = threadIdx.x % 128; i < kCount * kPieces; i += 128) {
      const int token = i / kPieces, at = i % kPieces * kVec, column = output + at;
      if (row + token >= end || column >= problem.outputs) continue;
      Y* target = y + row_of(row + token) * y_stride + column;
      if (column + kVec <= problem.outputs && IS_ALIGNED)
        store(target, load<kVec>(&turned[token][at]));
      else
        for (int j = 0; j < kVec && column + j < problem.outputs; j++) target[j] = turned[token][at + j];
    }
  }

  /// One for all rows, by the blocks that have the first columns.
  __device__ __forceinline__ void write_scales(const Place& place, int num_rows) const {
    if (place.output > 0) return;
    for (int row = place.row + threadIdx.x; row < min(place.row + num_rows, place.end); row += kConsumers)
      y_scales[row * y_scales_stride] = y_scale;
  }

  template <int kSize> __device__ __forceinline__ void run(const Total (&sum)[kSize], const Place& place) {
    if (kYieldsCodes) write_scales(place, 2 * kSize);
    constexpr int kTurns = (2 * kSize + kTurned - 1) / kTurned, kCount = 2 * kSize / kTurns;
    const int group = threadIdx.x / 128;
    Y(*turned)[kPitch] = memory.turned[group];
#pragma unroll
    for (int first = 0; first < 2 * kSize; first += kCount) {
      sync_group(group);
#pragma unroll
      for (int token = first; token < first + kCount; token += 16) turn(sum + token / 2, token, turned + (token - first));
      sync_group(group);
      write<kCount>(place.row + first, place.end, place.output + group * kGroupWidth, turned);
    }
  }
};

/// A warpgroup's share of a tile of 2 · kSize tokens, or of the half of them that are enough.
template <int kSize> __device__ __forceinline__ void make_tile(Epilogue& epilogue, int& turn, const Place& place) {
  if constexpr (2 * kSize > kBox)
    if (place.boxes * kBox < 2 * kSize) return make_tile<kSize / 2>(epilogue, turn, place);
  epilogue.read_scales(place);
  Total sum[kSize];
  multiply(epilogue.memory, threadIdx.x / 128, turn, place.num_parts, sum);
#if SHARED
  if (place.part > 0) return epilogue.left.leave(sum);
  epilogue.left.add(place, sum);
#endif
  epilogue.run(sum, place);
}

extern "C" __global__ void __launch_bounds__(kConsumers + 128, MIN_BLOCKS)
    linear_wgmma(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, const int* num_rows,
#ifdef MATRICES
                 const int* order, const MatrixRows* tiles, const int* num_tiles,
#endif
                 const float* x_scales, i64 x_scales_stride, const float* scales, const BIAS* bias, Y* y, i64 y_stride,
                 const float* y_calibrated, int num_y_calibrated, float* y_scales, i64 y_scales_stride,
#if SHARED
                 Vec<Total, 4>* left_sums, int* are_left,
#endif
                 int inputs, int outputs) {
  extern __shared__ u8 shared[];
  Memory& memory = *reinterpret_cast<Memory*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
#ifdef MATRICES
  wait_for_previous();
  const Problem problem{*num_rows, inputs, outputs, order, tiles, *num_tiles};
#else
  const Problem problem{*num_rows, inputs, outputs};
#endif
  const Schedule schedule(problem);
  if (threadIdx.x == 0) memory.ring.init();
  if (threadIdx.x == kConsumers) ask_map(&x), ask_map(&weight);
  __syncthreads();
  let_next_start();

  if (threadIdx.x >= kConsumers) {
#if OUTPUTS > 64
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
    if (threadIdx.x < kConsumers + 32) Producer{memory, &x, &weight, schedule}.run();
    return;
  }
#if OUTPUTS > 64
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
#endif
  wait_for_previous();
  const float y_scale = kYieldsCodes ? largest(y_calibrated, num_y_calibrated) : 1.0f;
#if SHARED
  Epilogue epilogue{memory, scales, bias, y, y_stride, y_scales, y_scales_stride, y_scale, problem, {left_sums, are_left, schedule}};
#else
  Epilogue epilogue{memory, scales, bias, y, y_stride, y_scales, y_scales_stride, y_scale, problem};
#endif
  int turn = 0;
  schedule.each([&](const Place& place) {
    if (kHasScales) {
      sync_consumers();
      for (int i = threadIdx.x; i < TOKENS; i += kConsumers)
        memory.x_scales[i] = place.row + i < place.end ? x_scales[(place.row + i) * x_scales_stride] : 0.0f;
      sync_consumers();
    }
    make_tile<TOKENS / 2>(epilogue, turn, place);
  });
}
