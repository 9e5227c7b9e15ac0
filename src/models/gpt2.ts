// GPT-2: learned positions, LayerNorm, biases everywhere, weights stored transposed.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { Embedding, LMHead } from '../nn/embedding.ts';
import { add } from '../nn/functional.ts';
import { MLP } from '../nn/mlp.ts';
import { Module } from '../nn/module.ts';
import { LayerNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, evenShare, layerCount } from './config.ts';
import { defineModel } from './define-model.ts';

const schema = z.object({
  vocab_size: count,
  n_positions: count.default(1024),
  n_embd: count,
  n_layer: layerCount,
  n_head: count,
  n_inner: count.nullish(),
  activation_function: activationName.default('geluTanh'),
  layer_norm_epsilon: z.number().default(1e-5),
  scale_attn_weights: z.boolean().default(true),
  scale_attn_by_inverse_layer_idx: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
});

type GPT2Config = z.output<typeof schema>;

class GPT2Layer extends Module {
  readonly attentionNorm: LayerNorm;
  readonly attention: Attention;
  readonly mlpNorm: LayerNorm;
  readonly mlp: MLP;

  constructor(scope: Scope, config: GPT2Config, layer: number) {
    super(scope);
    const { n_embd: hiddenSize, n_head: numHeads, layer_norm_epsilon: eps } = config;
    const stored = { bias: true, transpose: true };
    this.attentionNorm = new LayerNorm(scope.at('ln_1'), hiddenSize, eps);
    this.attention = new Attention(scope.at('attn'), {
      ...{ layer, hiddenSize, numHeads, numKvHeads: numHeads, headDim: evenShare(hiddenSize, numHeads) },
      ...{ scale: attentionScale(config, layer), window: null, rope: null, ...stored },
      names: { qkv: 'c_attn', output: 'c_proj' },
    });
    this.mlpNorm = new LayerNorm(scope.at('ln_2'), hiddenSize, eps);
    this.mlp = new MLP(scope.at('mlp'), {
      ...{ hiddenSize, intermediateSize: config.n_inner ?? 4 * hiddenSize, ...stored },
      activation: config.activation_function,
      names: { up: 'c_fc', down: 'c_proj' },
    });
  }

  protected forward(x: Tensor): Tensor {
    const attended = add(x, this.attention.apply(this.attentionNorm.apply(x)));
    return add(attended, this.mlp.apply(this.mlpNorm.apply(attended)));
  }
}

function attentionScale(config: GPT2Config, layer: number): number {
  const scale = config.scale_attn_weights ? 1 / Math.sqrt(evenShare(config.n_embd, config.n_head)) : 1;
  return config.scale_attn_by_inverse_layer_idx ? scale / (layer + 1) : scale;
}

function logits(scope: Scope, config: GPT2Config): Tensor {
  const { vocab_size: vocabSize, n_embd: hiddenSize, n_positions: numPositions } = config;
  const { tracer } = scope;
  const model = scope.at('transformer');
  const tokens = new Embedding(model.at('wte'), vocabSize, hiddenSize);
  const positions = new Embedding(model.at('wpe'), numPositions, hiddenSize);
  let x = tracer.labelled(model.path, () =>
    add(tokens.apply(tracer.input('tokenIds')), positions.apply(tracer.input('positions'))),
  );
  for (let layer = 0; layer < config.n_layer; layer++) {
    x = new GPT2Layer(model.at(`h.${layer}`), config, layer).apply(x);
  }
  x = new LayerNorm(model.at('ln_f'), hiddenSize, config.layer_norm_epsilon).apply(x);
  return new LMHead(scope.at('lm_head'), vocabSize, hiddenSize, config.tie_word_embeddings ? tokens : null).apply(x);
}

/** Checkpoints may lack the prefix of the inner model; the shared table may be stored under its other name. */
function tensorNames(tensor: string): readonly string[] {
  const names = [tensor, tensor.replace(/^transformer\./, '')];
  return tensor === 'transformer.wte.weight' ? [...names, 'lm_head.weight'] : names;
}

export const gpt2 = defineModel({
  modelType: 'gpt2',
  architectures: ['GPT2LMHeadModel'],
  schema,
  neutralFields: [
    ...['attn_pdrop', 'embd_pdrop', 'resid_pdrop', 'n_ctx', 'reorder_and_upcast_attn'],
    ...['summary_activation', 'summary_first_dropout', 'summary_proj_to_labels', 'summary_type', 'summary_use_proj'],
  ],
  facts: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.n_embd,
    numLayers: config.n_layer,
    maxPositions: config.n_positions,
  }),
  forward: logits,
  tensorNames,
  isBuffer: (tensor) => /\.attn\.(bias|masked_bias)$/.test(tensor),
});
