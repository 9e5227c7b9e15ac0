// GPT-2: learned positions, LayerNorm, biases everywhere, weights stored transposed.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { decoderLogits } from '../nn/decoder.ts';
import { Embedding } from '../nn/embedding.ts';
import { add } from '../nn/functional.ts';
import { MLP } from '../nn/mlp.ts';
import type { Module } from '../nn/module.ts';
import { LayerNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, evenShare, layerCount } from './config.ts';
import { defineModel } from './define-model.ts';
import type { ModelFacts } from './model-definition.ts';
import { isMaskBuffer, publishedNames } from './tensor-names.ts';

/** What GPT-2 and GPT-BigCode name alike. */
export const gpt2Fields = {
  vocab_size: count,
  n_positions: count.default(1024),
  n_embd: count,
  n_layer: layerCount,
  n_head: count,
  n_inner: count.nullish(),
  activation_function: activationName.default('geluTanh'),
  layer_norm_epsilon: z.number().default(1e-5),
  scale_attn_weights: z.boolean().default(true),
  tie_word_embeddings: z.boolean().default(true),
};

export type GPT2Config = z.output<z.ZodObject<typeof gpt2Fields>>;

/** How a checkpoint stores the weights of a GPT-2. */
export interface GPT2Storage {
  readonly transpose: boolean;
  readonly numKvHeads: number;
  readonly order: 'stacked' | 'grouped';
  /** Divides the scores of each layer. */
  readonly scoreDivisor: (layer: number) => number;
}

export function gpt2Logits(scope: Scope, config: GPT2Config, storage: GPT2Storage): Tensor {
  const { n_embd: hiddenSize, layer_norm_epsilon: eps } = config;
  const positions = new Embedding(scope.at('transformer.wpe'), config.n_positions, hiddenSize);
  return decoderLogits(scope, {
    vocabSize: config.vocab_size,
    hiddenSize,
    numLayers: config.n_layer,
    tied: config.tie_word_embeddings,
    names: {
      embedding: 'transformer.wte',
      layers: 'transformer.h',
      norm: 'transformer.ln_f',
      head: 'lm_head',
    },
    embed: (x) => add(x, positions.apply(scope.tracer.input('positions'))),
    norm: (at) => new LayerNorm(at, hiddenSize, eps),
    layer: (at, layer) => gpt2Layer(at, config, layer, storage),
  });
}

function gpt2Layer(scope: Scope, config: GPT2Config, layer: number, storage: GPT2Storage): Module {
  const { n_embd: hiddenSize, n_head: numHeads, layer_norm_epsilon: eps } = config;
  const { transpose, numKvHeads, order, scoreDivisor } = storage;
  const headDim = evenShare(hiddenSize, numHeads);
  const attention = new Attention(scope.at('attn'), {
    layer,
    hiddenSize,
    numHeads,
    numKvHeads,
    headDim,
    scale: (config.scale_attn_weights ? 1 / Math.sqrt(headDim) : 1) / scoreDivisor(layer),
    bias: true,
    transpose,
    names: { qkv: 'c_attn', output: 'c_proj', order },
  });
  const mlp = new MLP(scope.at('mlp'), {
    hiddenSize,
    intermediateSize: config.n_inner ?? 4 * hiddenSize,
    activation: config.activation_function,
    bias: true,
    transpose,
    names: { up: 'c_fc', down: 'c_proj' },
  });
  return new SequentialBlock(scope, {
    attention: { norm: new LayerNorm(scope.at('ln_1'), hiddenSize, eps), body: attention },
    mlp: { norm: new LayerNorm(scope.at('ln_2'), hiddenSize, eps), body: mlp },
  });
}

export function gpt2Facts(config: GPT2Config): Omit<ModelFacts, 'numParameters'> {
  return {
    vocabSize: config.vocab_size,
    hiddenSize: config.n_embd,
    numLayers: config.n_layer,
    maxPositions: config.n_positions,
  };
}

/** Fields of these configs that mean nothing for inference. */
export const gpt2NeutralFields = [
  'attn_pdrop',
  'embd_pdrop',
  'resid_pdrop',
  'n_ctx',
  'reorder_and_upcast_attn',
  'summary_activation',
  'summary_first_dropout',
  'summary_proj_to_labels',
  'summary_type',
  'summary_use_proj',
];

/** How checkpoints name their tensors. */
export const gpt2Tensors = {
  tensorNames: publishedNames('transformer', 'transformer.wte', 'lm_head'),
  isBuffer: isMaskBuffer,
};

export const gpt2 = defineModel({
  modelType: 'gpt2',
  architectures: ['GPT2LMHeadModel'],
  schema: z.object({ ...gpt2Fields, scale_attn_by_inverse_layer_idx: z.boolean().default(false) }),
  neutralFields: gpt2NeutralFields,
  facts: gpt2Facts,
  forward: (scope, config) =>
    gpt2Logits(scope, config, {
      transpose: true,
      numKvHeads: config.n_head,
      order: 'stacked',
      scoreDivisor: (layer) => (config.scale_attn_by_inverse_layer_idx ? layer + 1 : 1),
    }),
  ...gpt2Tensors,
});
