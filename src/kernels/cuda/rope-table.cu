// Cosines and sines of a rotary embedding: row p holds cos then sin of p times each frequency, [numPositions, 2 · pairs].
#include "common.cuh"

extern "C" __global__ void rope_table(const double* inverse_frequencies, float* table, int pairs, double factor) {
  const i64 position = blockIdx.x;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    double sin, cos;
    sincos(double(position) * inverse_frequencies[i], &sin, &cos);
    table[position * 2 * pairs + i] = float(cos * factor);
    table[position * 2 * pairs + pairs + i] = float(sin * factor);
  }
}
