// Llama 2 and 3, everything published in their shape, and the frame that their relatives vary.
import { z } from 'zod';
import type { RopeParameters } from '../ir/ops/rope.ts';
import { Attention, type AttentionOptions } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { decoderLogits, type DecoderOptions } from '../nn/decoder.ts';
import { GatedMLP, type GatedMLPOptions } from '../nn/mlp.ts';
import type { Module } from '../nn/module.ts';
import { rmsNorm, type NormLayer } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, evenShare, layerCount } from './config.ts';
import { defineModel } from './define-model.ts';
import type { ModelFacts } from './model-definition.ts';
import { maxContextLength, readRope, ropeFields, ropeFor } from './rope-config.ts';
import { isRotaryBuffer, publishedNames } from './tensor-names.ts';

/** What Llama and its relatives name alike. */
export const llamaFields = {
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: layerCount,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: activationName.default('silu'),
  max_position_embeddings: count.default(2048),
  tie_word_embeddings: z.boolean().default(false),
  ...ropeFields,
};

export type LlamaConfig = z.output<z.ZodObject<typeof llamaFields>>;

/** The halves of a layer, and its norms by name. */
export interface LayerParts {
  readonly attention: Module;
  readonly mlp: Module;
  readonly norm: (name: string) => Module;
}

/** What makes a relative of Llama; where a member is missing it does as Llama does. */
export interface LlamaVariant {
  readonly norm: NormLayer;
  /** Of all layers; null: positions enter otherwise. */
  readonly rope?: RopeParameters | null;
  readonly attention?: (scope: Scope, base: AttentionOptions) => Module;
  readonly mlp?: (scope: Scope, base: GatedMLPOptions, layer: number) => Module;
  /** Names of the halves within a layer. */
  readonly halves?: { readonly attention: string; readonly mlp: string };
  readonly block?: (scope: Scope, parts: LayerParts) => Module;
  /** Around the layers. */
  readonly frame?: Partial<DecoderOptions>;
}

/** Logits of a decoder in Llama's shape. */
export function llamaLogits(
  scope: Scope,
  config: LlamaConfig,
  contextLength: number,
  variant: LlamaVariant,
): Tensor {
  const { norm, halves = { attention: 'self_attn', mlp: 'mlp' }, block = preNormBlock } = variant;
  const { attention = (at, base) => new Attention(at, base), mlp = (at, base) => new GatedMLP(at, base) } =
    variant;
  const { rope = ropeFor(readRope(config), headDimOf(config), contextLength) } = variant;
  const hiddenSize = config.hidden_size;
  return decoderLogits(scope, {
    vocabSize: config.vocab_size,
    hiddenSize,
    numLayers: config.num_hidden_layers,
    tied: config.tie_word_embeddings,
    names: { embedding: 'model.embed_tokens', layers: 'model.layers', norm: 'model.norm', head: 'lm_head' },
    norm: (at) => norm(at, hiddenSize),
    layer: (at, layer) =>
      block(at, {
        attention: attention(at.at(halves.attention), attentionOptions(config, layer, rope)),
        mlp: mlp(at.at(halves.mlp), mlpOptions(config), layer),
        norm: (name) => norm(at.at(name), hiddenSize),
      }),
    ...variant.frame,
  });
}

/** The norm before attention, and the one before the feed-forward. */
function preNormBlock(scope: Scope, { attention, mlp, norm }: LayerParts): Module {
  return new SequentialBlock(scope, {
    attention: { norm: norm('input_layernorm'), body: attention },
    mlp: { norm: norm('post_attention_layernorm'), body: mlp },
  });
}

function attentionOptions(config: LlamaConfig, layer: number, rope: RopeParameters | null): AttentionOptions {
  return {
    layer,
    hiddenSize: config.hidden_size,
    numHeads: config.num_attention_heads,
    numKvHeads: config.num_key_value_heads ?? config.num_attention_heads,
    headDim: headDimOf(config),
    rope,
    bias: false,
    names: { q: 'q_proj', k: 'k_proj', v: 'v_proj', output: 'o_proj' },
  };
}

function mlpOptions(config: LlamaConfig): GatedMLPOptions {
  return {
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    activation: config.hidden_act,
    bias: false,
  };
}

export function llamaFacts(config: LlamaConfig): Omit<ModelFacts, 'numParameters'> {
  return {
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    numLayers: config.num_hidden_layers,
    maxPositions: maxContextLength(readRope(config)),
  };
}

export function headDimOf(config: LlamaConfig): number {
  return config.head_dim ?? evenShare(config.hidden_size, config.num_attention_heads);
}

/** How checkpoints of Llama's shape name their tensors. */
export const llamaTensors = {
  tensorNames: publishedNames('model', 'model.embed_tokens', 'lm_head'),
  isBuffer: isRotaryBuffer,
};

export const llama = defineModel({
  modelType: 'llama',
  architectures: ['LlamaForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-6),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.boolean().default(false),
  }),
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      attention: (at, base) => new Attention(at, { ...base, bias: config.attention_bias }),
      mlp: (at, base) => new GatedMLP(at, { ...base, bias: config.mlp_bias }),
    }),
  ...llamaTensors,
});
