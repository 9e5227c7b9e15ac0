// ChatGLM2, ChatGLM3 and GLM-4 as first published: GLM's mathematics under names and with fused tensors of their own.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { GatedMLP } from '../nn/mlp.ts';
import { rmsNorm } from '../nn/norm.ts';
import { only } from './config.ts';
import { defineModel } from './define-model.ts';
import { headDimOf, llamaFacts, llamaFields, llamaLogits, type LlamaConfig } from './llama.ts';
import { readRope, ropeFor } from './rope-config.ts';
import { isRotaryBuffer, publishedNames } from './tensor-names.ts';

const schema = z
  .object(llamaFields)
  .omit({ hidden_act: true, rope_theta: true, rope_scaling: true, rope_parameters: true })
  .extend({
    rms_norm_eps: z.number().default(1e-5),
    multi_query_attention: z.boolean().default(false),
    add_qkv_bias: z.boolean().default(false),
    add_bias_linear: z.boolean().default(false),
    /** Longer contexts came with a larger base. */
    rope_ratio: z.number().positive().default(1),
    rmsnorm: only(true),
    post_layer_norm: only(true),
    original_rope: only(true),
  });

type ChatGLMConfig = z.output<typeof schema>;

/** The fields that Llama knows. */
function asLlama(config: ChatGLMConfig): LlamaConfig {
  const numKvHeads = config.multi_query_attention ? config.num_key_value_heads : null;
  const angles = { rope_theta: 10_000 * config.rope_ratio, partial_rotary_factor: 0.5 };
  return { ...config, ...angles, num_key_value_heads: numKvHeads, hidden_act: 'silu' };
}

export const chatglm = defineModel({
  modelType: 'chatglm',
  architectures: ['ChatGLMModel', 'ChatGLMForConditionalGeneration'],
  schema,
  aliases: {
    padded_vocab_size: 'vocab_size',
    num_layers: 'num_hidden_layers',
    ffn_hidden_size: 'intermediate_size',
    kv_channels: 'head_dim',
    multi_query_group_num: 'num_key_value_heads',
    layernorm_epsilon: 'rms_norm_eps',
    seq_length: 'max_position_embeddings',
  },
  neutralFields: [
    'apply_query_key_layer_scaling', // divides and multiplies by the same number
    'attention_softmax_in_fp32',
    'bias_dropout_fusion',
    'classifier_dropout',
    'fp32_residual_connection',
  ],
  facts: (config) => llamaFacts(asLlama(config)),
  forward(scope, config, contextLength) {
    const { add_bias_linear: bias } = config;
    const llamaConfig = asLlama(config);
    return llamaLogits(scope, llamaConfig, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      rope: ropeFor(readRope(llamaConfig), headDimOf(llamaConfig), contextLength, true),
      halves: { attention: 'self_attention', mlp: 'mlp' },
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          bias: bias || config.add_qkv_bias,
          outputBias: bias,
          names: { qkv: 'query_key_value', output: 'dense' },
        }),
      mlp: (at, base) =>
        new GatedMLP(at, { ...base, bias, names: { gateUp: 'dense_h_to_4h', down: 'dense_4h_to_h' } }),
      frame: {
        names: {
          embedding: 'transformer.embedding.word_embeddings',
          layers: 'transformer.encoder.layers',
          norm: 'transformer.encoder.final_layernorm',
          head: 'transformer.output_layer',
        },
      },
    });
  },
  tensorNames: publishedNames(
    'transformer',
    'transformer.embedding.word_embeddings',
    'transformer.output_layer',
  ),
  isBuffer: isRotaryBuffer,
});
