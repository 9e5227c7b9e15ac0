// Gemma 2: norms on both sides of each branch, every second layer in a window, scores and logits softly capped.
import { z } from 'zod';
import { Attention, type AttentionOptions } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { scale, softcap } from '../nn/functional.ts';
import type { Module } from '../nn/module.ts';
import { rmsNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, layerTypes, windowsOf } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors, type LayerParts, type LlamaVariant } from './llama.ts';

/** What Gemma 2 and 3 name alike. Older configs also carry a `hidden_act`, which `hidden_activation` overrules. */
export const gemmaFields = {
  ...llamaFields,
  head_dim: count.default(256),
  hidden_activation: activationName.nullish().transform((kind) => kind ?? 'geluTanh'),
  rms_norm_eps: z.number().default(1e-6),
  max_position_embeddings: count.default(8192),
  tie_word_embeddings: z.boolean().default(true),
  attention_bias: z.boolean().default(false),
  query_pre_attn_scalar: z.number().positive().default(256),
  sliding_window: count.nullable().default(4096),
  layer_types: layerTypes,
  final_logit_softcapping: z.number().positive().nullish(),
  attn_logit_softcapping: z.number().positive().nullish(),
};

export type GemmaConfig = z.output<z.ZodObject<typeof gemmaFields>>;

/** The weights of Gemma's norms are stored as distances from 1. */
export const WEIGHT_OFFSET = 1;

/** How Gemma 2 and 3 vary Llama, but for what their attention does beyond `gemmaAttention`. */
export function gemmaVariant(config: GemmaConfig): Pick<LlamaVariant, 'norm' | 'block' | 'frame'> {
  const { final_logit_softcapping: cap } = config;
  return {
    norm: rmsNorm(config.rms_norm_eps, WEIGHT_OFFSET),
    block: sandwichBlock,
    frame: {
      embed: (x: Tensor) => scale(x, Math.sqrt(config.hidden_size)),
      adjustLogits: (logits: Tensor) => (cap ? softcap(logits, cap) : logits),
    },
  };
}

export function gemmaAttention(config: GemmaConfig, base: AttentionOptions): AttentionOptions {
  return {
    ...base,
    bias: config.attention_bias,
    scale: 1 / Math.sqrt(config.query_pre_attn_scalar),
    softcap: config.attn_logit_softcapping ?? null,
  };
}

function sandwichBlock(scope: Scope, { attention, mlp, norm }: LayerParts): Module {
  return new SequentialBlock(scope, {
    attention: {
      norm: norm('input_layernorm'),
      body: attention,
      outputNorm: norm('post_attention_layernorm'),
    },
    mlp: {
      norm: norm('pre_feedforward_layernorm'),
      body: mlp,
      outputNorm: norm('post_feedforward_layernorm'),
    },
  });
}

export const gemma2 = defineModel({
  modelType: 'gemma2',
  architectures: ['Gemma2ForCausalLM'],
  schema: z.object({
    ...gemmaFields,
    final_logit_softcapping: z.number().positive().nullable().default(30),
    attn_logit_softcapping: z.number().positive().nullable().default(50),
  }),
  neutralFields: ['sliding_window_size'],
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { num_hidden_layers: numLayers, sliding_window: window } = config;
    const alternating = Array.from({ length: numLayers }, (_, layer) => (layer % 2 === 0 ? window : null));
    const windows = config.layer_types ? windowsOf(config.layer_types, numLayers, window) : alternating;
    return llamaLogits(scope, { ...config, hidden_act: config.hidden_activation }, contextLength, {
      ...gemmaVariant(config),
      attention: (at, base) => new Attention(at, { ...gemmaAttention(config, base), window: windows[base.layer] }),
    });
  },
  ...llamaTensors,
});
