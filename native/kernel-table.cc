// The table of kernels, and the adapters of the float types' matrix products to commands.
#include "kernel-table.h"

#include <cstring>

#include "../src/kernels/cpu/linear.h"
#include "needletail.h"

namespace needletail {
namespace {

/// x, weight, bias? → y.
template <void (*kProduct)(const LinearArgs&, const ThreadContext&)>
void linear(const ThreadContext& context, const Command& command, const Step& step) {
  const Operand &x = command.inputs[0], &weight = command.inputs[1], &bias = command.inputs[2];
  const Operand& y = command.outputs[0];
  kProduct({x.row(0), x.row_stride, weight.data, bias.is_present() ? bias.row(0) : nullptr, y.row(0), y.row_stride,
            step.rows(command), int32_t(weight.rows), int32_t(weight.columns), step.workspace, {}},
           context);
}

constexpr KernelEntry kKernels[] = {
    {"linear_fp32", linear<linear_fp32>, nullptr, -1, -1},
    {"linear_fp16", linear<linear_fp16>, nullptr, -1, -1},
    {"linear_bf16", linear<linear_bf16>, nullptr, -1, -1},
#if defined(__AVX512BF16__)
    {"linear_bf16_dot", linear<linear_bf16_dot>, nullptr, -1, -1},
#endif
    {"embedding", embedding, nullptr, 0, 1},
    {"rms_norm", rms_norm, nullptr, -1, -1},
    {"add_rms_norm", add_rms_norm, nullptr, -1, -1},
    {"layer_norm", layer_norm, nullptr, -1, -1},
    {"add_layer_norm", add_layer_norm, nullptr, -1, -1},
    {"add", add, nullptr, -1, -1},
    {"multiply", multiply, nullptr, -1, -1},
    {"scale", scale, nullptr, -1, -1},
    {"clamp", clamp, nullptr, -1, -1},
    {"softcap", softcap, nullptr, -1, -1},
    {"activation", activation, nullptr, -1, -1},
    {"gated_activation", gated_activation, nullptr, -1, -1},
    {"rope", rope, nullptr, 1, 2},
    {"kv_write", kv_write, nullptr, -1, -1},
    {"rope_kv_write", rope_kv_write, rope_kv_write_scratch, 3, 5},
    {"gather_rows", gather_rows, nullptr, -1, -1},
    {"attention", attention, attention_scratch, -1, -1},
    {"latent_attention", latent_attention, latent_attention_scratch, -1, -1},
    {"route_experts", route_experts, route_experts_scratch, -1, -1},
    {"combine_experts", combine_experts, nullptr, -1, -1},
    {"grouped_linear_fp32", grouped_linear_fp32, nullptr, -1, -1},
    {"grouped_linear_fp16", grouped_linear_fp16, nullptr, -1, -1},
    {"grouped_linear_bf16", grouped_linear_bf16, nullptr, -1, -1},
#if defined(__AVX512BF16__)
    {"grouped_linear_bf16_dot", grouped_linear_bf16_dot, nullptr, -1, -1},
#endif
    {"permute_columns", permute_columns, nullptr, -1, -1},
    {"quantize_int8", quantize_int8, nullptr, -1, -1},
    {"quantize_fp8", quantize_fp8, nullptr, -1, -1},
    {"weight_only_linear_int8", weight_only_linear_int8, nullptr, -1, -1},
    {"weight_only_linear_uint4", weight_only_linear_uint4, nullptr, -1, -1},
    {"weight_only_linear_fp8", weight_only_linear_fp8, nullptr, -1, -1},
    {"quantized_linear_int8", quantized_linear_int8, nullptr, -1, -1},
    {"quantized_linear_uint4", quantized_linear_uint4, nullptr, -1, -1},
    {"quantized_linear_fp8", quantized_linear_fp8, nullptr, -1, -1},
    {"weight_only_grouped_linear_int8", weight_only_grouped_linear_int8, nullptr, -1, -1},
    {"weight_only_grouped_linear_uint4", weight_only_grouped_linear_uint4, nullptr, -1, -1},
    {"weight_only_grouped_linear_fp8", weight_only_grouped_linear_fp8, nullptr, -1, -1},
    {"quantized_grouped_linear_int8", quantized_grouped_linear_int8, nullptr, -1, -1},
    {"quantized_grouped_linear_uint4", quantized_grouped_linear_uint4, nullptr, -1, -1},
    {"quantized_grouped_linear_fp8", quantized_grouped_linear_fp8, nullptr, -1, -1},
};

}  // namespace

int32_t num_kernels() { return sizeof kKernels / sizeof kKernels[0]; }
const KernelEntry& kernel_at(int32_t index) { return kKernels[index]; }

}  // namespace needletail

int32_t nt_find_kernel(const char* name) {
  for (int32_t i = 0; i < needletail::num_kernels(); i++) {
    if (std::strcmp(needletail::kernel_at(i).name, name) == 0) return i;
  }
  return -1;
}
