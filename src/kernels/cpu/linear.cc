// Matrix products on packed weights of float types.
#include "linear-product.h"

namespace needletail {

void linear_fp32(const LinearArgs& args, const ThreadContext& context) { multiply<Float32Format>(args, context); }
void linear_fp16(const LinearArgs& args, const ThreadContext& context) { multiply<Float16Format>(args, context); }
void linear_bf16(const LinearArgs& args, const ThreadContext& context) { multiply<Bfloat16Format>(args, context); }
#if defined(__AVX512BF16__)
void linear_bf16_dot(const LinearArgs& args, const ThreadContext& context) {
  multiply<Bfloat16DotFormat>(args, context);
}
#endif

}  // namespace needletail
