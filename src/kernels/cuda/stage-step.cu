// Brings a step's arrays from page-locked host memory to where the kernels expect them, and puts in the tokens that the step
// before has drawn: the host never sees them in between.
#include "common.cuh"

/// −1 − r stands for what row r of the step before has drawn.
__device__ __forceinline__ int resolve(int token, const int* drawn) { return token < 0 ? drawn[-1 - token] : token; }

/// `image` mirrors `arrays`, in units of 16 bytes. It begins with (place, length) pairs of the pieces that the step uses.
/// Grid [pieces, blocks for each]; the piece `token_piece` holds the token ids.
extern "C" __global__ void __launch_bounds__(256)
    stage_step(const int4* __restrict__ image, int4* __restrict__ arrays, int token_piece, const int* __restrict__ drawn) {
  const int2 piece = reinterpret_cast<const int2*>(image)[blockIdx.x];
#pragma unroll 4
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < piece.y; i += gridDim.y * blockDim.x) {
    int4 words = image[piece.x + i];
    if (blockIdx.x == token_piece) {
      words.x = resolve(words.x, drawn), words.y = resolve(words.y, drawn);
      words.z = resolve(words.z, drawn), words.w = resolve(words.w, drawn);
    }
    arrays[piece.x + i] = words;
  }
}
