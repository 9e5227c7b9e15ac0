// BLOOM: no positions but ALiBi's, a norm right after the token table, queries, keys and values fused head by head.
import { z } from 'zod';
import { alibiSlopes } from '../nn/alibi.ts';
import { Attention } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { decoderLogits } from '../nn/decoder.ts';
import { MLP } from '../nn/mlp.ts';
import { LayerNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { count, evenShare, layerCount } from './config.ts';
import { defineModel } from './define-model.ts';
import { isMaskBuffer, publishedNames } from './tensor-names.ts';

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  n_layer: layerCount,
  n_head: count,
  layer_norm_epsilon: z.number().default(1e-5),
  /** Length of the training texts; ALiBi sets no limit. */
  seq_length: count.default(2048),
  tie_word_embeddings: z.boolean().default(true),
});

type BloomConfig = z.output<typeof schema>;

function logits(scope: Scope, config: BloomConfig): Tensor {
  const { hidden_size: hiddenSize, n_head: numHeads } = config;
  const norm = (at: Scope): LayerNorm => new LayerNorm(at, hiddenSize, config.layer_norm_epsilon);
  const embeddingNorm = norm(scope.at('transformer.word_embeddings_layernorm'));
  return decoderLogits(scope, {
    vocabSize: config.vocab_size,
    hiddenSize,
    numLayers: config.n_layer,
    tied: config.tie_word_embeddings,
    names: {
      embedding: 'transformer.word_embeddings',
      layers: 'transformer.h',
      norm: 'transformer.ln_f',
      head: 'lm_head',
    },
    embed: (x) => embeddingNorm.apply(x),
    norm,
    layer(at, layer) {
      const attention = new Attention(at.at('self_attention'), {
        layer,
        hiddenSize,
        numHeads,
        numKvHeads: numHeads,
        headDim: evenShare(hiddenSize, numHeads),
        alibiSlopes: alibiSlopes(numHeads),
        bias: true,
        names: { qkv: 'query_key_value', output: 'dense', order: 'grouped' },
      });
      const mlp = new MLP(at.at('mlp'), {
        hiddenSize,
        intermediateSize: 4 * hiddenSize,
        activation: 'geluTanh',
        bias: true,
        names: { up: 'dense_h_to_4h', down: 'dense_4h_to_h' },
      });
      return new SequentialBlock(at, {
        attention: { norm: norm(at.at('input_layernorm')), body: attention },
        mlp: { norm: norm(at.at('post_attention_layernorm')), body: mlp },
      });
    },
  });
}

export const bloom = defineModel({
  modelType: 'bloom',
  architectures: ['BloomForCausalLM', 'BloomModel'],
  schema,
  aliases: { n_embed: 'hidden_size', num_attention_heads: 'n_head', num_hidden_layers: 'n_layer' },
  neutralFields: [
    'attention_softmax_in_fp32',
    'bias_dropout_fusion',
    'masked_softmax_fusion',
    'offset_alibi',
    'skip_bias_add',
    'skip_bias_add_qkv',
    'slow_but_exact',
  ],
  facts: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    numLayers: config.n_layer,
    maxPositions: config.seq_length,
  }),
  forward: logits,
  tensorNames: publishedNames('transformer', 'transformer.word_embeddings', 'lm_head'),
  isBuffer: isMaskBuffer,
});
