// Granite 3: Llama with constant factors on the token vectors, the scores, the branches and the logits.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { SequentialBlock } from '../nn/block.ts';
import { scale } from '../nn/functional.ts';
import { GatedMLP } from '../nn/mlp.ts';
import { rmsNorm } from '../nn/norm.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const granite = defineModel({
  modelType: 'granite',
  architectures: ['GraniteForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-6),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.boolean().default(false),
    embedding_multiplier: z.number().default(1),
    attention_multiplier: z.number().default(1),
    residual_multiplier: z.number().default(1),
    /** The logits are divided by it. */
    logits_scaling: z.number().positive().default(1),
  }),
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { attention_multiplier, residual_multiplier: multiplier } = config;
    return llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      attention: (at, base) =>
        new Attention(at, { ...base, bias: config.attention_bias, scale: attention_multiplier }),
      mlp: (at, base) => new GatedMLP(at, { ...base, bias: config.mlp_bias }),
      block: (at, { attention, mlp, norm }) =>
        new SequentialBlock(at, {
          attention: { norm: norm('input_layernorm'), body: attention, multiplier },
          mlp: { norm: norm('post_attention_layernorm'), body: mlp, multiplier },
        }),
      frame: {
        embed: (x) => scale(x, config.embedding_multiplier),
        adjustLogits: (logits) => scale(logits, 1 / config.logits_scaling),
      },
    });
  },
  ...llamaTensors,
});
