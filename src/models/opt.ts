// OPT: learned positions, ReLU, biases; the 350M model norms after each branch and projects smaller token vectors.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { PostNormBlock, SequentialBlock } from '../nn/block.ts';
import { decoderLogits } from '../nn/decoder.ts';
import { Embedding } from '../nn/embedding.ts';
import { add } from '../nn/functional.ts';
import { Linear } from '../nn/linear.ts';
import { MLP } from '../nn/mlp.ts';
import type { Module } from '../nn/module.ts';
import { LayerNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, evenShare, layerCount, only } from './config.ts';
import { defineModel } from './define-model.ts';
import { publishedNames } from './tensor-names.ts';

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  num_hidden_layers: layerCount,
  num_attention_heads: count,
  ffn_dim: count,
  max_position_embeddings: count.default(2048),
  word_embed_proj_dim: count.nullish(),
  activation_function: activationName.default('relu'),
  do_layer_norm_before: z.boolean().default(true),
  /** Early checkpoints were made without the last norm. */
  _remove_final_layer_norm: z.boolean().default(false),
  enable_bias: z.boolean().default(true),
  layer_norm_elementwise_affine: only(true),
  tie_word_embeddings: z.boolean().default(true),
});

type OPTConfig = z.output<typeof schema>;

const EPS = 1e-5;
/** Rows of the table of positions before the one of position 0. */
const POSITION_OFFSET = 2;

function logits(scope: Scope, config: OPTConfig): Tensor {
  const { hidden_size: hiddenSize, max_position_embeddings: numPositions } = config;
  const decoder = scope.at('model.decoder');
  const embeddingSize = config.word_embed_proj_dim ?? hiddenSize;
  const project = (name: string, inputs: number, outputs: number) =>
    inputs === outputs ? null : new Linear(decoder.at(name), { inputs, outputs, bias: false });
  const projectIn = project('project_in', embeddingSize, hiddenSize);
  const projectOut = project('project_out', hiddenSize, embeddingSize);
  const positions = new Embedding(decoder.at('embed_positions'), numPositions, hiddenSize, POSITION_OFFSET);
  const hasLastNorm = config.do_layer_norm_before && !config._remove_final_layer_norm;
  return decoderLogits(scope, {
    vocabSize: config.vocab_size,
    hiddenSize,
    embeddingSize,
    numLayers: config.num_hidden_layers,
    tied: config.tie_word_embeddings,
    names: {
      embedding: 'model.decoder.embed_tokens',
      layers: 'model.decoder.layers',
      norm: 'model.decoder.final_layer_norm',
      head: 'lm_head',
    },
    embed: (x) => add(projectIn?.apply(x) ?? x, positions.apply(scope.tracer.input('positions'))),
    layer: (at, layer) => decoderLayer(at, config, layer),
    norm: hasLastNorm ? (at) => new LayerNorm(at, hiddenSize, EPS) : null,
    project: (x) => projectOut?.apply(x) ?? x,
  });
}

function decoderLayer(scope: Scope, config: OPTConfig, layer: number): Module {
  const { hidden_size: hiddenSize, num_attention_heads: numHeads, enable_bias: bias } = config;
  const attention = new Attention(scope.at('self_attn'), {
    layer,
    hiddenSize,
    numHeads,
    numKvHeads: numHeads,
    headDim: evenShare(hiddenSize, numHeads),
    bias,
    names: { q: 'q_proj', k: 'k_proj', v: 'v_proj', output: 'out_proj' },
  });
  const mlp = new MLP(scope, {
    hiddenSize,
    intermediateSize: config.ffn_dim,
    activation: config.activation_function,
    bias,
    names: { up: 'fc1', down: 'fc2' },
  });
  const attentionNorm = new LayerNorm(scope.at('self_attn_layer_norm'), hiddenSize, EPS);
  const mlpNorm = new LayerNorm(scope.at('final_layer_norm'), hiddenSize, EPS);
  if (!config.do_layer_norm_before) {
    return new PostNormBlock(scope, { attention, attentionNorm, mlp, mlpNorm });
  }
  return new SequentialBlock(scope, {
    attention: { norm: attentionNorm, body: attention },
    mlp: { norm: mlpNorm, body: mlp },
  });
}

export const opt = defineModel({
  modelType: 'opt',
  architectures: ['OPTForCausalLM'],
  schema,
  neutralFields: ['dropout', 'activation_dropout', 'layerdrop', 'init_std'],
  facts: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    numLayers: config.num_hidden_layers,
    maxPositions: config.max_position_embeddings,
  }),
  forward: logits,
  tensorNames: publishedNames('model', 'model.decoder.embed_tokens', 'lm_head'),
});
