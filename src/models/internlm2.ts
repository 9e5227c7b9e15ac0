// InternLM2: Llama under other names, queries, keys and values fused group by group.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { GatedMLP } from '../nn/mlp.ts';
import { rmsNorm } from '../nn/norm.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits } from './llama.ts';
import { isRotaryBuffer, publishedNames } from './tensor-names.ts';

export const internlm2 = defineModel({
  modelType: 'internlm2',
  architectures: ['InternLM2ForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-6),
    bias: z.boolean().default(true),
  }),
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      halves: { attention: 'attention', mlp: 'feed_forward' },
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          bias: config.bias,
          names: { qkv: 'wqkv', output: 'wo', order: 'grouped' },
        }),
      mlp: (at, base) => new GatedMLP(at, { ...base, names: { gate: 'w1', up: 'w3', down: 'w2' } }),
      block: (at, { attention, mlp, norm }) =>
        new SequentialBlock(at, {
          attention: { norm: norm('attention_norm'), body: attention },
          mlp: { norm: norm('ffn_norm'), body: mlp },
        }),
      frame: {
        names: {
          embedding: 'model.tok_embeddings',
          layers: 'model.layers',
          norm: 'model.norm',
          head: 'output',
        },
      },
    }),
  tensorNames: publishedNames('model', 'model.tok_embeddings', 'output'),
  isBuffer: isRotaryBuffer,
});
