// Gemma 2: norms on both sides of each branch, every second layer in a window, scores and logits softly capped.
import { z } from 'zod';
import { Attention, type AttentionOptions } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { softcap } from '../nn/functional.ts';
import type { Module } from '../nn/module.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { count, layerTypes, windowsOf } from './config.ts';
import { defineModel } from './define-model.ts';
import { gemmaFields, gemmaVariant } from './gemma.ts';
import { llamaFacts, llamaLogits, llamaTensors, type LayerParts, type LlamaVariant } from './llama.ts';

/** What Gemma 2 and 3 name alike. */
export const gemma2Fields = {
  ...gemmaFields,
  query_pre_attn_scalar: z.number().positive().default(256),
  sliding_window: count.nullable().default(4096),
  layer_types: layerTypes,
  final_logit_softcapping: z.number().positive().nullish(),
  attn_logit_softcapping: z.number().positive().nullish(),
};

export type Gemma2Config = z.output<z.ZodObject<typeof gemma2Fields>>;

/** How Gemma 2 and 3 vary Llama, but for what their attention does beyond `gemma2Attention`. */
export function gemma2Variant(config: Gemma2Config): Pick<LlamaVariant, 'norm' | 'block' | 'frame'> {
  const { final_logit_softcapping: cap } = config;
  const { norm, frame } = gemmaVariant(config);
  return {
    norm,
    block: sandwichBlock,
    frame: { ...frame, adjustLogits: (logits: Tensor) => (cap ? softcap(logits, cap) : logits) },
  };
}

export function gemma2Attention(config: Gemma2Config, base: AttentionOptions): AttentionOptions {
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
    ...gemma2Fields,
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
      ...gemma2Variant(config),
      attention: (at, base) =>
        new Attention(at, { ...gemma2Attention(config, base), window: windows[base.layer] }),
    });
  },
  ...llamaTensors,
});
