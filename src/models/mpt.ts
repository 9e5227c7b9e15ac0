// MPT: ALiBi with a bias range of its own, LayerNorm and linears without biases, projections clipped on demand.
import { z } from 'zod';
import { alibiSlopes } from '../nn/alibi.ts';
import { Attention } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { decoderLogits } from '../nn/decoder.ts';
import { MLP } from '../nn/mlp.ts';
import { LayerNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { count, evenShare, layerCount, only } from './config.ts';
import { defineModel } from './define-model.ts';
import { publishedNames } from './tensor-names.ts';

const attentionConfig = z.strictObject({
  alibi: only(true),
  alibi_bias_max: z.number().positive().default(8),
  clip_qkv: z.number().positive().nullish(),
  softmax_scale: z.number().positive().nullish(),
  qk_ln: z.boolean().default(false),
  attn_type: only('multihead_attention'),
  attn_uses_sequence_id: only(false),
  prefix_lm: only(false),
  // Without a meaning for inference.
  attn_impl: z.unknown().optional(),
  attn_pdrop: z.unknown().optional(),
  model_type: z.unknown().optional(),
});

const schema = z.object({
  vocab_size: count,
  d_model: count,
  n_layers: layerCount,
  n_heads: count,
  expansion_ratio: count.default(4),
  max_seq_len: count.default(2048),
  layer_norm_epsilon: z.number().default(1e-5),
  norm_type: z.enum(['low_precision_layernorm', 'layernorm']).default('low_precision_layernorm'),
  no_bias: z.boolean().default(true),
  embedding_fraction: only(1),
  tie_word_embeddings: z.boolean().default(true),
  attn_config: attentionConfig.prefault({}),
});

type MPTConfig = z.output<typeof schema>;

function logits(scope: Scope, config: MPTConfig): Tensor {
  const { d_model: hiddenSize, n_heads: numHeads, no_bias: noBias, attn_config: options } = config;
  const headDim = evenShare(hiddenSize, numHeads);
  const norm = (at: Scope): LayerNorm => new LayerNorm(at, hiddenSize, config.layer_norm_epsilon, !noBias);
  return decoderLogits(scope, {
    vocabSize: config.vocab_size,
    hiddenSize,
    numLayers: config.n_layers,
    tied: config.tie_word_embeddings,
    names: {
      embedding: 'transformer.wte',
      layers: 'transformer.blocks',
      norm: 'transformer.norm_f',
      head: 'lm_head',
    },
    norm,
    layer(at, layer) {
      const attention = new Attention(at.at('attn'), {
        layer,
        hiddenSize,
        numHeads,
        numKvHeads: numHeads,
        headDim,
        scale: options.softmax_scale ?? 1 / Math.sqrt(headDim),
        alibiSlopes: alibiSlopes(numHeads, options.alibi_bias_max),
        clip: options.clip_qkv ?? null,
        queryNorm: options.qk_ln ? norm(at.at('attn.q_ln')) : null,
        keyNorm: options.qk_ln ? norm(at.at('attn.k_ln')) : null,
        bias: !noBias,
        names: { qkv: 'Wqkv', output: 'out_proj' },
      });
      const mlp = new MLP(at.at('ffn'), {
        hiddenSize,
        intermediateSize: config.expansion_ratio * hiddenSize,
        activation: 'gelu',
        bias: !noBias,
        names: { up: 'up_proj', down: 'down_proj' },
      });
      return new SequentialBlock(at, {
        attention: { norm: norm(at.at('norm_1')), body: attention },
        mlp: { norm: norm(at.at('norm_2')), body: mlp },
      });
    },
  });
}

export const mpt = defineModel({
  modelType: 'mpt',
  architectures: ['MptForCausalLM', 'MPTForCausalLM'],
  schema,
  // Learned positions are not there where ALiBi is.
  neutralFields: [
    'emb_pdrop',
    'resid_pdrop',
    'init_config',
    'init_device',
    'learned_pos_emb',
    'tokenizer_name',
    'verbose',
  ],
  facts: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.d_model,
    numLayers: config.n_layers,
    maxPositions: config.max_seq_len,
  }),
  forward: logits,
  tensorNames: publishedNames('transformer', 'transformer.wte', 'lm_head'),
});
