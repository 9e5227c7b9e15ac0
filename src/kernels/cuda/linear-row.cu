// linear, weightOnlyLinear and quantizedLinear of one row of x, bound by reading the weights, with the norm or gated activation
// that x comes from. As many blocks as run at once make a share of the outputs each, 16 at a time. One warp keeps a ring of
// weights filled, from before the previous launch is done; the others have x in shared memory, each block for itself, and divide
// the inputs, 128 bytes of every row at a time on tensor cores.
// X: type of x, codes or 16-bit; CODES: of the weight, X if it has 16-bit numbers; Y: of the output, BIAS: of the bias;
// STAGES for each of TEAMS teams, of STAGE_ATOMS times 128 bytes of each of 16 rows, IN_FLIGHT of them on their way at once; GROUPED: 1 if each 64 bytes of
// a row have a pair (scale, zero) of their own.
// NORM: 1 if x is the root-mean-square norm of a row of type A, 2 if of the sum of two; W: type of its weight; GATE: the function
// of a gated activation that x is of a row of type A; PIECES: 16-byte pieces of x that a thread makes; QUANTIZE: 1 if x is
// rounded to codes then, 2 if it is of codes already.
// OUTPUT_GATE: the function by which the first half of the outputs gates the second, if it does: a tile has eight of either. Y may
// be of codes then, under a scale known beforehand.
#include "pipeline.cuh"
#include "row-x.cuh"

constexpr int kOutputs = 16;
constexpr int kTileBytes = kOutputs * kAtomBytes;
/// A stage has STAGE_ATOMS tiles of weights and, if GROUPED, one of scales, [16][2 * STAGE_ATOMS] pairs.
constexpr int kStageBytes = (STAGE_ATOMS + GROUPED) * kTileBytes;
static_assert(!GROUPED || STAGE_ATOMS == 8, "a tile of scales for a stage");
static_assert(STAGE_ATOMS == kMembers, "an atom for each, which has its part of x");
typedef Ring<STAGES, kMembers> StageRing;
#ifdef OUTPUT_GATE
constexpr bool kGates = true;
#else
constexpr bool kGates = false;
#endif
constexpr bool kYieldsCodes = sizeof(Y) == 1;

/// A stage of weights: part `part` of a team's tile `round`, its turn `index`. Turns come from all teams in turns while all have some;
/// then they are those of the first, which may have a tile more.
struct Turn {
  int team, round, part, index;

  __device__ __forceinline__ void advance(int num_rounds, int num_parts) {
    if (team + 1 < kTeams && round < num_rounds) return void(team++);
    team = 0, index++;
    if (++part == num_parts) part = 0, round++;
  }
};

/// The weights of a block's outputs; teams have tiles in turns.
struct Weights {
#if HAS_COPY_ENGINE
  Boxes codes;
#else
  Tiles codes;
#endif
  Tiles scales;  // of GROUPED
  int turns_per_tile, first_tile, num_tiles;

  __device__ __forceinline__ void fill_stage(u8* stage, const Turn& turn, u64* full) const {
    const int tile = first_tile + turn.round * kTeams + turn.team, row = tile * kOutputs, atom = turn.part * STAGE_ATOMS;
#if HAS_COPY_ENGINE
    if (threadIdx.x % 32 == 0) {
      if (kGates) codes.fill_gated(stage, tile, atom, full);
      else codes.fill(stage, row, atom, full);
    }
#else
    for (int i = 0; i < STAGE_ATOMS; i++)
      codes.fill(stage + i * kTileBytes, row, (atom + i) * kAtomBytes, kOutputs, 1, full);
#endif
    if (!GROUPED) return;
    u8* of_scales = stage + STAGE_ATOMS * kTileBytes;
    const int byte = turn.part * kAtomBytes;
#if HAS_COPY_ENGINE
    if (kGates) return copy_gated_box(of_scales, scales.map, byte, tile, 0, full, scales.policy);
#endif
    scales.fill(of_scales, row, byte, kOutputs, 1, full);
  }

  /// One warp; it meets nothing but weights.
  __device__ __forceinline__ void fill(u8* stages, StageRing (&rings)[kTeams]) const {
    Turn turn = {}, arrived = {};
    for (int i = 0; i < num_tiles * turns_per_tile; i++) {
      // What others read of memory waits behind all that is on its way.
      if (i >= IN_FLIGHT) {
        rings[arrived.team].wait_full(arrived.index);
        arrived.advance(num_tiles / kTeams, turns_per_tile);
      }
      StageRing& ring = rings[turn.team];
      ring.begin_fill(turn.index, kStageBytes);
      fill_stage(stages + (turn.team * STAGES + turn.index % STAGES) * kStageBytes, turn, &ring.full[turn.index % STAGES]);
      ring.end_fill(turn.index);
      turn.advance(num_tiles / kTeams, turns_per_tile);
    }
    let_next_start();
#if !HAS_COPY_ENGINE
    wait_copies<0>();
#endif
  }
};

#if GROUPED
typedef float Total;
#else
typedef T::Sum Total;
#endif

/// A warp's atom of a stage. The columns of the products are the planes of x, where it has several, and the others any of them.
__device__ __forceinline__ void multiply(const u8* stage, int at_atom, int atom, const KeptX& kept, Total (&sum)[2][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const u8* weights = stage + at_atom * kTileBytes + g * kAtomBytes;
  const K* x = kept.plane(min(g, kPlanes - 1)) + atom * kAtomInputs + c * (T::kPiece / 4);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int place = ((4 * half + c) ^ g) * 16;
    const uint4 low = *reinterpret_cast<const uint4*>(weights + place);
    const uint4 high = *reinterpret_cast<const uint4*>(weights + place + 8 * kAtomBytes);
    const T tile({low.x, low.y, low.z, low.w}, {high.x, high.y, high.z, high.w});
    u32 words[T::kXWords], from_x[2 * T::kSteps];
#pragma unroll
    for (int i = 0; i < T::kXWords / 4; i++) {
      const uint4 v = reinterpret_cast<const uint4*>(x + half * T::kPiece)[i];
      words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
    }
    T::expand(words, from_x);
#if GROUPED
    T::Sum part[2][4] = {};
#else
    T::Sum(&part)[2][4] = sum;
#endif
#pragma unroll
    for (int i = 0; i < T::kSteps; i++) T::multiply(part[i % 2], tile.a[i], from_x[2 * i], from_x[2 * i + 1]);
#if GROUPED
    const u8* scales = stage + STAGE_ATOMS * kTileBytes + g * kAtomBytes + (at_atom ^ g) * 16 + half * 8;
    const float half_sum = kept.half_sums[2 * atom + half];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const float2 of_row = *reinterpret_cast<const float2*>(scales + j * 8 * kAtomBytes);
      // What zeros take off is taken off the highest plane's product.
      sum[0][2 * j] += of_row.x * (float(part[0][2 * j] + part[1][2 * j]) - (c == 0 ? of_row.y * half_sum : 0.0f));
      sum[0][2 * j + 1] += of_row.x * float(part[0][2 * j + 1] + part[1][2 * j + 1]);
    }
#endif
  }
}

/// A warp's products of rows lane / 4 and that plus 8, of all planes; valid in lanes that 4 divides.
__device__ __forceinline__ float2 join_planes(const Total (&sum)[2][4]) {
  float of_row[2];
#pragma unroll
  for (int j = 0; j < 2; j++) {
    of_row[j] = float(sum[0][2 * j] + sum[1][2 * j]);
    if (kPlanes == 1) continue;
    // Planes are columns: the first two of them are the first lane's, the third the next lane's.
    const float higher = 65536.0f * of_row[j] + 256.0f * float(sum[0][2 * j + 1] + sum[1][2 * j + 1]);
    of_row[j] = higher + __shfl_down_sync(0xffffffffu, of_row[j], 1);
  }
  return make_float2(of_row[0], of_row[1]);
}

/// Which output row `row` of a tile is.
__device__ __forceinline__ int output_of(int tile, int row, int outputs) {
  return kGates ? tile * (kOutputs / 2) + row % 8 + row / 8 * (outputs / 2) : tile * kOutputs + row;
}

/// The one row of results. Out is Y.
template <typename Out> struct Output {
  Out* y;
  float scale;  // of codes

  __device__ __forceinline__ void put(int column, float value) const {
    if constexpr (sizeof(Out) == 1) y[column] = encode<Out>(value / scale);
    else y[column] = from_float<Out>(value);
  }

  /// Row `row` of a tile; with a gate half a warp works together, and every tile is whole.
  __device__ __forceinline__ void write(int tile, int row, float value) const {
#ifdef OUTPUT_GATE
    const float up = __shfl_down_sync(0xffffu, value, 8);
    if (row < 8) put(tile * (kOutputs / 2) + row, OUTPUT_GATE(value, 0.0f, 0.0f) * up);
#else
    put(tile * kOutputs + row, value);
#endif
  }
};

#if HAS_COPY_ENGINE
#define WEIGHT_PARAMETERS const __grid_constant__ TensorMap codes, const __grid_constant__ TensorMap pairs_of_codes
#else
#define WEIGHT_PARAMETERS const u8 *codes, const u8 *pairs_of_codes
#endif

extern "C" __global__ void __launch_bounds__(kReaders * 32 + 32)
    linear_row(const A* x, const A* residual, A* x_sum, const W* gain, float eps, float gain_offset, X* made, float* x_scale,
               const float* x_calibrated, int num_x_calibrated, WEIGHT_PARAMETERS, const float* scales, const BIAS* bias, Y* y,
               const float* y_calibrated, int num_y_calibrated, float* y_scale, int inputs, int outputs) {
  extern __shared__ __align__(1024) u8 memory[];
  __shared__ float sums[kTeams][2][kMembers][kOutputs];
  __shared__ StageRing rings[kTeams];
  __shared__ Board board;
  const int num_atoms = inputs / kAtomInputs, turns_per_tile = (num_atoms + STAGE_ATOMS - 1) / STAGE_ATOMS;
  const int num_tiles = (outputs + kOutputs - 1) / kOutputs;
  const int least = num_tiles / gridDim.x, num_larger = num_tiles % gridDim.x, block = blockIdx.x;
  const int first_tile = block * least + min(block, num_larger), last_tile = first_tile + least + (block < num_larger);
  if (threadIdx.x == 0) {
    board.init();
    for (StageRing& ring : rings) ring.init();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == kReaders) {
#if HAS_COPY_ENGINE
    const u64 policy = policy_to_drop();
    const Weights weights{{&codes, policy}, {&pairs_of_codes, policy}, turns_per_tile, first_tile, last_tile - first_tile};
#else
    const int row_bytes = num_atoms * kAtomBytes, pair_bytes = num_atoms * 16;
    const Weights weights{{codes, row_bytes, outputs, row_bytes},
                          {pairs_of_codes, pair_bytes, outputs, pair_bytes},
                          turns_per_tile, first_tile, last_tile - first_tile};
#endif
    return weights.fill(memory, rings);
  }
  K* x_kept = reinterpret_cast<K*>(memory + kTeams * STAGES * kStageBytes);
  float* half_sums = reinterpret_cast<float*>(x_kept + kPlanes * (inputs + kPlanePad));
  const KeptX kept{x_kept, half_sums, inputs};
  // Before the previous launch is waited for.
  const bool has_scale = x_calibrated != nullptr;
  const float known_scale = has_scale ? largest(x_calibrated, num_x_calibrated) : 0.0f;
  const Source source{x, residual, x_sum, gain, eps, gain_offset, made, x_scale, has_scale, known_scale, inputs, board};
  const Output<Y> output_row{y, kYieldsCodes ? largest(y_calibrated, num_y_calibrated) : 1.0f};
  RowPart row;
  const int member = warp % kMembers, team = warp / kMembers;
  const float part_factor = source.keep(kept, row);
  if (kYieldsCodes && source.writes() && threadIdx.x == 0) *y_scale = output_row.scale;
  sync_members(member);
  const u8* stages = memory + team * STAGES * kStageBytes;
  StageRing& ring = rings[team];

  int turn = 0;
  for (int tile = first_tile + team; tile < last_tile; tile += kTeams) {
    const bool writes = member == tile / kTeams % kMembers && lane < kOutputs;
    const int output = output_of(tile, lane, outputs);
    const bool is_output = writes && output < outputs;
    const float scale = is_output && scales ? scales[output] : 1.0f;
    const float offset = is_output && bias ? to_float(bias[output]) : 0.0f;
    Total sum[2][4] = {};
    for (int i = 0; i < turns_per_tile; i++, turn++) {
      const int atom = i * kMembers + member;
      ring.wait_full(turn);
      if (atom < num_atoms) multiply(stages + turn % STAGES * kStageBytes, member, atom, kept, sum);
      ring.release(turn);
    }
    float(&parts)[kMembers][kOutputs] = sums[team][tile / kTeams % 2];
    const float2 of_rows = join_planes(sum);
    if (lane % 4 == 0)
      parts[member][lane / 4] = of_rows.x * part_factor, parts[member][lane / 4 + 8] = of_rows.y * part_factor;
#if NORM
    if (kDefersNorm && tile < first_tile + kTeams) source.add_squares(row);
#endif
    sync_team(team);
    if (!is_output) continue;
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kMembers; i++) total += parts[i][lane];
    output_row.write(tile, lane, total * (source.left_factor() * scale) + offset);
  }
#if NORM && !QUANTIZE
  if (kDefersNorm && first_tile + team >= last_tile) source.add_squares(row);
  source.finish(row);
#endif
}
