// Falcon in its three kinds: one head of keys and values (7B), several (40B, 180B), or ALiBi and no sharing (rw).
import { z } from 'zod';
import { alibiSlopes } from '../nn/alibi.ts';
import { Attention } from '../nn/attention.ts';
import { ParallelBlock, SequentialBlock } from '../nn/block.ts';
import { decoderLogits } from '../nn/decoder.ts';
import { MLP } from '../nn/mlp.ts';
import type { Module } from '../nn/module.ts';
import { LayerNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, evenShare, layerCount } from './config.ts';
import { defineModel } from './define-model.ts';
import { maxContextLength, readRope, ropeFields, ropeFor } from './rope-config.ts';
import { isRotaryBuffer, publishedNames } from './tensor-names.ts';

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  num_hidden_layers: layerCount,
  num_attention_heads: count,
  /** Counts in the new architecture, or where `multi_query` is off. */
  num_kv_heads: count.nullish(),
  ffn_hidden_size: count.nullish(),
  activation: activationName.default('gelu'),
  layer_norm_epsilon: z.number().default(1e-5),
  max_position_embeddings: count.default(2048),
  alibi: z.boolean().default(false),
  bias: z.boolean().default(false),
  multi_query: z.boolean().default(true),
  new_decoder_architecture: z.boolean().default(false),
  parallel_attn: z.boolean().default(true),
  num_ln_in_parallel_attn: z.union([z.literal(1), z.literal(2)]).nullish(),
  tie_word_embeddings: z.boolean().default(true),
  ...ropeFields,
});

type FalconConfig = z.output<typeof schema>;

function logits(scope: Scope, config: FalconConfig, contextLength: number): Tensor {
  const { hidden_size: hiddenSize, num_attention_heads: numHeads, alibi, bias } = config;
  const headDim = evenShare(hiddenSize, numHeads);
  const rope = alibi ? null : ropeFor(readRope(config), headDim, contextLength);
  // The slopes are scaled like the scores that they join.
  const slopes = alibi ? alibiSlopes(numHeads).map((slope) => slope / Math.sqrt(headDim)) : null;
  return decoderLogits(scope, {
    vocabSize: config.vocab_size,
    hiddenSize,
    numLayers: config.num_hidden_layers,
    tied: config.tie_word_embeddings,
    names: {
      embedding: 'transformer.word_embeddings',
      layers: 'transformer.h',
      norm: 'transformer.ln_f',
      head: 'lm_head',
    },
    norm: (at) => new LayerNorm(at, hiddenSize, config.layer_norm_epsilon),
    layer(at, layer) {
      const attention = new Attention(at.at('self_attention'), {
        layer,
        hiddenSize,
        numHeads,
        numKvHeads: numKvHeadsOf(config),
        headDim,
        rope,
        alibiSlopes: slopes,
        bias,
        names: { qkv: 'query_key_value', output: 'dense', order: 'grouped' },
      });
      const mlp = new MLP(at.at('mlp'), {
        hiddenSize,
        intermediateSize: config.ffn_hidden_size ?? 4 * hiddenSize,
        activation: config.activation,
        bias,
        names: { up: 'dense_h_to_4h', down: 'dense_4h_to_h' },
      });
      return joined(at, config, attention, mlp);
    },
  });
}

function numKvHeadsOf(config: FalconConfig): number {
  if (config.multi_query && !config.new_decoder_architecture) return 1;
  return config.num_kv_heads ?? config.num_attention_heads;
}

function joined(scope: Scope, config: FalconConfig, attention: Module, mlp: Module): Module {
  const { new_decoder_architecture: isNew, parallel_attn: isParallel } = config;
  const norm = (name: string): LayerNorm =>
    new LayerNorm(scope.at(name), config.hidden_size, config.layer_norm_epsilon);
  if (isNew && (config.num_ln_in_parallel_attn ?? 2) === 2) {
    return new ParallelBlock(scope, { norm: norm('ln_attn'), attention, mlpNorm: norm('ln_mlp'), mlp });
  }
  if (isNew || isParallel) return new ParallelBlock(scope, { norm: norm('input_layernorm'), attention, mlp });
  return new SequentialBlock(scope, {
    attention: { norm: norm('input_layernorm'), body: attention },
    mlp: { norm: norm('post_attention_layernorm'), body: mlp },
  });
}

export const falcon = defineModel({
  modelType: 'falcon',
  architectures: ['FalconForCausalLM', 'RWForCausalLM'],
  schema,
  aliases: { n_layer: 'num_hidden_layers', n_head: 'num_attention_heads', n_head_kv: 'num_kv_heads' },
  facts: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    numLayers: config.num_hidden_layers,
    maxPositions: config.alibi ? config.max_position_embeddings : maxContextLength(readRope(config)),
  }),
  forward: logits,
  tensorNames: publishedNames('transformer', 'transformer.word_embeddings', 'lm_head'),
  isBuffer: isRotaryBuffer,
});
