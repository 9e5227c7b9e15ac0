// Every kernel of the CPU but the matrix products of float types, which linear.h declares.
#pragma once

#include "program.h"

namespace needletail {

void embedding(const ThreadContext&, const Command&, const Step&);
void rms_norm(const ThreadContext&, const Command&, const Step&);
void add_rms_norm(const ThreadContext&, const Command&, const Step&);
void layer_norm(const ThreadContext&, const Command&, const Step&);
void add_layer_norm(const ThreadContext&, const Command&, const Step&);
void add(const ThreadContext&, const Command&, const Step&);
void multiply(const ThreadContext&, const Command&, const Step&);
void scale(const ThreadContext&, const Command&, const Step&);
void clamp(const ThreadContext&, const Command&, const Step&);
void softcap(const ThreadContext&, const Command&, const Step&);
void activation(const ThreadContext&, const Command&, const Step&);
void gated_activation(const ThreadContext&, const Command&, const Step&);
void rope(const ThreadContext&, const Command&, const Step&);
void kv_write(const ThreadContext&, const Command&, const Step&);
void rope_kv_write(const ThreadContext&, const Command&, const Step&);
void gather_rows(const ThreadContext&, const Command&, const Step&);
void attention(const ThreadContext&, const Command&, const Step&);
void latent_attention(const ThreadContext&, const Command&, const Step&);
void route_experts(const ThreadContext&, const Command&, const Step&);
void combine_experts(const ThreadContext&, const Command&, const Step&);
void grouped_linear_fp32(const ThreadContext&, const Command&, const Step&);
void grouped_linear_fp16(const ThreadContext&, const Command&, const Step&);
void grouped_linear_bf16(const ThreadContext&, const Command&, const Step&);
#if defined(__AVX512BF16__)
void grouped_linear_bf16_dot(const ThreadContext&, const Command&, const Step&);
#endif
void permute_columns(const ThreadContext&, const Command&, const Step&);
void quantize_int8(const ThreadContext&, const Command&, const Step&);
void quantize_fp8(const ThreadContext&, const Command&, const Step&);
void weight_only_linear_int8(const ThreadContext&, const Command&, const Step&);
void weight_only_linear_uint4(const ThreadContext&, const Command&, const Step&);
void weight_only_linear_fp8(const ThreadContext&, const Command&, const Step&);
void quantized_linear_int8(const ThreadContext&, const Command&, const Step&);
void quantized_linear_uint4(const ThreadContext&, const Command&, const Step&);
void quantized_linear_fp8(const ThreadContext&, const Command&, const Step&);
void weight_only_grouped_linear_int8(const ThreadContext&, const Command&, const Step&);
void weight_only_grouped_linear_uint4(const ThreadContext&, const Command&, const Step&);
void weight_only_grouped_linear_fp8(const ThreadContext&, const Command&, const Step&);
void quantized_grouped_linear_int8(const ThreadContext&, const Command&, const Step&);
void quantized_grouped_linear_uint4(const ThreadContext&, const Command&, const Step&);
void quantized_grouped_linear_fp8(const ThreadContext&, const Command&, const Step&);

/// Scratch that a kernel wants beside the plan's workspace: small, and dependent on the number of threads.
struct ScratchBytes {
  int64_t per_thread;
  int64_t shared;
};

struct ScratchQuery {
  const KvCache* kv_caches;
  int32_t max_num_seqs;
};

ScratchBytes rope_kv_write_scratch(const Command&, const ScratchQuery&);
ScratchBytes attention_scratch(const Command&, const ScratchQuery&);
ScratchBytes latent_attention_scratch(const Command&, const ScratchQuery&);
ScratchBytes route_experts_scratch(const Command&, const ScratchQuery&);

}  // namespace needletail
