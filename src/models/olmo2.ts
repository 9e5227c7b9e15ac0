// OLMo 2: Llama with its norms behind the branches instead of before them; queries and keys normed over all heads.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { RMSNorm, rmsNorm } from '../nn/norm.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const olmo2 = defineModel({
  modelType: 'olmo2',
  architectures: ['Olmo2ForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-5),
    attention_bias: z.boolean().default(false),
  }),
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { rms_norm_eps: eps, attention_bias: bias } = config;
    return llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(eps),
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          bias,
          queryNorm: new RMSNorm(at.at('q_norm'), base.numHeads * base.headDim, eps),
          keyNorm: new RMSNorm(at.at('k_norm'), base.numKvHeads * base.headDim, eps),
        }),
      block: (at, { attention, mlp, norm }) =>
        new SequentialBlock(at, {
          attention: { norm: null, body: attention, outputNorm: norm('post_attention_layernorm') },
          mlp: { norm: null, body: mlp, outputNorm: norm('post_feedforward_layernorm') },
        }),
    });
  },
  ...llamaTensors,
});
