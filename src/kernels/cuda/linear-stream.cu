// linear for few rows with 16-bit weights. X: type of x and weight, Y: of the output. Rows are multiples of 16 bytes.
#include "linear-stream.cuh"
#include "stream-weights.cuh"

#if HAS_COPY_ENGINE
extern "C" __global__ void __launch_bounds__(kReaders * 32 + 32)
    linear_stream(const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap x, const int* num_rows,
                  const X* bias, Y* y, i64 y_stride, int inputs, int outputs) {
  const Tiles weight_tiles{&weight, policy_to_drop()}, x_tiles{&x, policy_to_keep()};
#else
extern "C" __global__ void __launch_bounds__(kReaders * 32 + 32)
    linear_stream(const X* weight, const X* x, i64 x_stride, int x_rows, const int* num_rows, const X* bias, Y* y, i64 y_stride,
                  int inputs, int outputs) {
  const Tiles weight_tiles{reinterpret_cast<const u8*>(weight), 2 * inputs, outputs, 2 * inputs};
  const Tiles x_tiles{reinterpret_cast<const u8*>(x), 2 * x_stride, x_rows, 2 * inputs};
#endif
  extern __shared__ __align__(1024) u8 memory[];
  const OneTile work{x_tiles, *num_rows};
  const StreamLinear<StoredWeights<X>, OneTile> linear{weight_tiles, work, inputs, outputs, memory, reinterpret_cast<float*>(memory)};
  linear.run([&](const OneTile::Tile&, int row, int output, float sum) {
    y[row * y_stride + output] = from_float<Y>(sum + (bias ? to_float(bias[output]) : 0.0f));
  });
}
