// GPT-NeoX and Pythia: queries, keys and values fused head by head, heads that turn in part, branches beside each other
// or in turn.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { ParallelBlock, SequentialBlock } from '../nn/block.ts';
import { MLP } from '../nn/mlp.ts';
import { layerNorm } from '../nn/norm.ts';
import { activationName } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits } from './llama.ts';
import { isMaskBuffer, isRotaryBuffer, publishedNames } from './tensor-names.ts';

export const gptNeoX = defineModel({
  modelType: 'gpt_neox',
  architectures: ['GPTNeoXForCausalLM'],
  schema: z
    .object(llamaFields)
    .omit({ num_key_value_heads: true, head_dim: true })
    .extend({
      hidden_act: activationName.default('gelu'),
      layer_norm_eps: z.number().default(1e-5),
      partial_rotary_factor: z.number().positive().max(1).default(0.25),
      attention_bias: z.boolean().default(true),
      use_parallel_residual: z.boolean().default(true),
    }),
  aliases: { rotary_pct: 'partial_rotary_factor', rotary_emb_base: 'rope_theta' },
  neutralFields: ['classifier_dropout'],
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, config, contextLength, {
      norm: layerNorm(config.layer_norm_eps),
      halves: { attention: 'attention', mlp: 'mlp' },
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          bias: config.attention_bias,
          names: { qkv: 'query_key_value', output: 'dense', order: 'grouped' },
        }),
      mlp: (at, base) =>
        new MLP(at, { ...base, bias: true, names: { up: 'dense_h_to_4h', down: 'dense_4h_to_h' } }),
      block(at, { attention, mlp, norm }) {
        const attentionNorm = norm('input_layernorm');
        const mlpNorm = norm('post_attention_layernorm');
        if (config.use_parallel_residual) {
          return new ParallelBlock(at, { norm: attentionNorm, attention, mlpNorm, mlp });
        }
        return new SequentialBlock(at, {
          attention: { norm: attentionNorm, body: attention },
          mlp: { norm: mlpNorm, body: mlp },
        });
      },
      frame: {
        names: {
          embedding: 'gpt_neox.embed_in',
          layers: 'gpt_neox.layers',
          norm: 'gpt_neox.final_layer_norm',
          head: 'embed_out',
        },
      },
    }),
  tensorNames: publishedNames('gpt_neox', 'gpt_neox.embed_in', 'embed_out'),
  isBuffer: (tensor) => isMaskBuffer(tensor) || isRotaryBuffer(tensor),
});
