// quantizedLinear on Hopper: tiles of codes come by the copy engine, warpgroups multiply them in shared memory. A block makes
// OUTPUTS outputs (64 of them to a warpgroup) of TOKENS rows of x, 16 to 256; blocks of a cluster, SPLIT of them, divide the
// inputs and send their sums to the first. CODES: of x and weight; Y: type of the output, BIAS: of the bias; STAGES: tiles on
// their way; PROMOTE: tiles after which sums move to float32 registers, for the tensor cores add fp8 products with fewer bits;
// 0: never. IS_ALIGNED: 1 if rows of y are multiples of 16 bytes.
#include "wgmma.cuh"

template <typename Code> struct TotalOf { typedef float type; };
template <> struct TotalOf<int8> { typedef int type; };
typedef TotalOf<CODES>::type Total;

constexpr int kDepth = 128, kGroups = OUTPUTS / 64, kConsumers = 128 * kGroups, kSize = TOKENS / 2;
constexpr int kPitch = OUTPUTS + 16 / sizeof(Y);

struct Stage {
  u8 weight[OUTPUTS][kDepth], x[TOKENS][kDepth];
};
struct Memory {
  Stage stages[STAGES];
  Ring<STAGES, kConsumers / 32> ring;
};

__device__ __forceinline__ void produce(Memory& memory, const Tiles& x, const Tiles& weight, int row, int output, int first_tile,
                                        int num_tiles) {
  const auto fill_weight = [&](int turn) {
    memory.ring.begin_fill(turn, sizeof(Stage));
    weight.fill(memory.stages[turn % STAGES].weight[0], output, (first_tile + turn) * kDepth, OUTPUTS, 1,
                &memory.ring.full[turn % STAGES]);
  };
  const auto fill_x = [&](int turn) {
    x.fill(memory.stages[turn % STAGES].x[0], row, (first_tile + turn) * kDepth, TOKENS, 1, &memory.ring.full[turn % STAGES]);
  };
  const int early = min(num_tiles, STAGES);
  for (int turn = 0; turn < early; turn++) fill_weight(turn);
  wait_for_previous();
  for (int turn = 0; turn < early; turn++) fill_x(turn);
  for (int turn = early; turn < num_tiles; turn++) fill_weight(turn), fill_x(turn);
}

__device__ __forceinline__ void consume(Memory& memory, int group, int num_tiles, Total (&sum)[kSize]) {
#if PROMOTE
  Total part[kSize];
#else
  Total(&part)[kSize] = sum;
#endif
  for (int turn = 0; turn < num_tiles; turn++) {
#if PROMOTE
    const bool is_first = turn % PROMOTE == 0;
#else
    constexpr bool is_first = false;  // Sums start at 0.
#endif
    memory.ring.wait_full(turn);
    Stage& stage = memory.stages[turn % STAGES];
    const u64 a = describe_tile(stage.weight[64 * group]), b = describe_tile(stage.x);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDepth / 32; k++) wgmma<CODES, Total, kSize>(part, a + 2 * k, b + 2 * k, !is_first || k > 0);
    commit_products();
#if PROMOTE
    wait_products<0>();
    memory.ring.release(turn);
    if (turn % PROMOTE == PROMOTE - 1 || turn == num_tiles - 1)
#pragma unroll
      for (int j = 0; j < kSize; j++) sum[j] += part[j];
#else
    // The products before these are done: their tiles are free.
    wait_products<1>();
    if (turn > 0) memory.ring.release(turn - 1);
#endif
  }
  wait_products<0>();
}

#if SPLIT > 1
/// Adds the sums of the cluster's other blocks to those of the first, through its shared memory.
__device__ __forceinline__ void gather_sums(Memory& memory, int rank, Total (&sum)[kSize]) {
  static_assert((SPLIT - 1) * kSize * kConsumers * sizeof(Total) <= sizeof(memory.stages), "sums fit");
  sync_cluster();  // The first block's tiles are used up.
  if (rank > 0) {
    const u32 local = shared_address(&memory) + ((rank - 1) * kSize * kConsumers + threadIdx.x) * sizeof(Total);
    u32 remote;
    asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(remote) : "r"(local));
#pragma unroll
    for (int j = 0; j < kSize; j++)
      asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(remote + j * kConsumers * 4), "r"(reinterpret_cast<u32&>(sum[j]))
                   : "memory");
  }
  sync_cluster();
  if (rank > 0) return;
  const Total* others = reinterpret_cast<const Total*>(&memory) + threadIdx.x;
#pragma unroll
  for (int r = 0; r < SPLIT - 1; r++)
#pragma unroll
    for (int j = 0; j < kSize; j++) sum[j] += others[(r * kSize + j) * kConsumers];
}
#endif

__device__ __forceinline__ void sync_consumers() { asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory"); }

extern "C" __global__ void
#if SPLIT > 1
    __cluster_dims__(1, 1, SPLIT)
#endif
    __launch_bounds__(kConsumers + 128, MIN_BLOCKS)
        quantized_wgmma(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, const int* num_rows,
                        const float* x_scales, i64 x_scales_stride, const float* scales, const BIAS* bias, Y* y, i64 y_stride,
                        int inputs, int outputs) {
  extern __shared__ u8 shared[];
  Memory& memory = *reinterpret_cast<Memory*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
  const int rows = *num_rows, first_row = blockIdx.x * TOKENS, first = blockIdx.y * OUTPUTS, rank = SPLIT > 1 ? blockIdx.z : 0;
  if (first_row >= rows) return;
  const int all_tiles = (inputs + kDepth - 1) / kDepth;
  const int first_tile = all_tiles * rank / SPLIT, num_tiles = all_tiles * (rank + 1) / SPLIT - first_tile;
  if (threadIdx.x == 0) memory.ring.init();
  __syncthreads();
  let_next_start();

  if (threadIdx.x >= kConsumers) {
#if OUTPUTS > 64
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
    if (threadIdx.x < kConsumers + 32)
      produce(memory, {&x, policy_to_keep()}, {&weight, gridDim.x == 1 ? policy_to_drop() : policy_to_keep()}, first_row, first,
              first_tile, num_tiles);
    if (SPLIT > 1) sync_cluster(), sync_cluster();
    return;
  }
#if OUTPUTS > 64
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
#endif
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  Total sum[kSize] = {};
  consume(memory, warp / 4, num_tiles, sum);
#if SPLIT > 1
  gather_sums(memory, rank, sum);
  if (rank > 0) return;
#endif

  float scale[2], offset[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int at = min(first + 16 * warp + g + 8 * half, outputs - 1);
    scale[half] = scales[at];
    offset[half] = bias ? to_float(bias[at]) : 0.0f;
  }
  wait_for_previous();
  // Turned in shared memory, so that rows of y are written in whole lines.
  sync_consumers();
  Y(*turned)[kPitch] = reinterpret_cast<Y(*)[kPitch]>(&memory);
#pragma unroll
  for (int i = 0; i < TOKENS / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = 8 * i + 2 * c + j % 2;
      const float x_scale = first_row + at < rows ? x_scales[(first_row + at) * x_scales_stride] : 0.0f;
      turned[at][16 * warp + g + j / 2 * 8] =
          from_float<Y>(float(sum[4 * i + j]) * scale[j / 2] * x_scale + offset[j / 2]);
    }
  sync_consumers();
  constexpr int kVec = 16 / sizeof(Y), kPieces = OUTPUTS / kVec;
  for (int i = threadIdx.x; i < min(TOKENS, rows - first_row) * kPieces; i += kConsumers) {
    const int row = i / kPieces, column = i % kPieces * kVec;
    if (first + column >= outputs) continue;
    Y* target = y + (first_row + row) * y_stride + first + column;
    if (first + column + kVec <= outputs && IS_ALIGNED)
      store(target, load<kVec>(&turned[row][column]));
    else
      for (int j = 0; j < kVec && first + column + j < outputs; j++) target[j] = turned[row][column + j];
  }
}
