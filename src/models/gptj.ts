// GPT-J: attention and feed-forward read one norm beside each other; neighbouring columns turn; the head has a bias.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { ParallelBlock } from '../nn/block.ts';
import { decoderLogits } from '../nn/decoder.ts';
import { MLP } from '../nn/mlp.ts';
import { LayerNorm } from '../nn/norm.ts';
import { ropeParameters } from '../nn/rope.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, evenShare, layerCount, only } from './config.ts';
import { defineModel } from './define-model.ts';
import { gpt2NeutralFields, gpt2Tensors } from './gpt2.ts';

const schema = z.object({
  vocab_size: count,
  n_positions: count.default(2048),
  n_embd: count,
  n_layer: layerCount,
  n_head: count,
  n_inner: count.nullish(),
  rotary: only(true),
  rotary_dim: count.default(64),
  activation_function: activationName.default('geluTanh'),
  layer_norm_epsilon: z.number().default(1e-5),
  scale_attn_weights: only(true),
  tie_word_embeddings: z.boolean().default(false),
});

type GPTJConfig = z.output<typeof schema>;

function logits(scope: Scope, config: GPTJConfig, contextLength: number): Tensor {
  const { n_embd: hiddenSize, n_head: numHeads, n_positions: maxPositions, rotary_dim: rotaryDim } = config;
  const norm = (at: Scope): LayerNorm => new LayerNorm(at, hiddenSize, config.layer_norm_epsilon);
  const scaling = { type: 'default' } as const;
  const angles = ropeParameters({ rotaryDim, theta: 10_000, scaling, maxPositions, contextLength });
  return decoderLogits(scope, {
    vocabSize: config.vocab_size,
    hiddenSize,
    numLayers: config.n_layer,
    tied: config.tie_word_embeddings,
    headBias: true,
    names: {
      embedding: 'transformer.wte',
      layers: 'transformer.h',
      norm: 'transformer.ln_f',
      head: 'lm_head',
    },
    norm,
    layer: (at, layer) =>
      new ParallelBlock(at, {
        norm: norm(at.at('ln_1')),
        attention: new Attention(at.at('attn'), {
          layer,
          hiddenSize,
          numHeads,
          numKvHeads: numHeads,
          headDim: evenShare(hiddenSize, numHeads),
          rope: { ...angles, interleaved: true },
          bias: false,
          names: { q: 'q_proj', k: 'k_proj', v: 'v_proj', output: 'out_proj' },
        }),
        mlp: new MLP(at.at('mlp'), {
          hiddenSize,
          intermediateSize: config.n_inner ?? 4 * hiddenSize,
          activation: config.activation_function,
          bias: true,
          names: { up: 'fc_in', down: 'fc_out' },
        }),
      }),
  });
}

export const gptj = defineModel({
  modelType: 'gptj',
  architectures: ['GPTJForCausalLM'],
  schema,
  neutralFields: gpt2NeutralFields,
  facts: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.n_embd,
    numLayers: config.n_layer,
    maxPositions: config.n_positions,
  }),
  forward: logits,
  ...gpt2Tensors,
});
