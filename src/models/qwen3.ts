// Qwen3: Qwen2 with every head of queries and keys normed, biases on demand.
import { z } from 'zod';
import { Attention, type AttentionOptions } from '../nn/attention.ts';
import { RMSNorm, rmsNorm } from '../nn/norm.ts';
import type { Scope } from '../nn/tensor.ts';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaLogits, llamaTensors } from './llama.ts';
import { qwenFields, qwenWindows } from './qwen2.ts';

/** Attention whose heads of queries and keys are normed before they turn. */
export function normedAttention(scope: Scope, options: AttentionOptions, eps: number): Attention {
  return new Attention(scope, {
    ...options,
    queryNorm: new RMSNorm(scope.at('q_norm'), options.headDim, eps),
    keyNorm: new RMSNorm(scope.at('k_norm'), options.headDim, eps),
  });
}

export const qwen3 = defineModel({
  modelType: 'qwen3',
  architectures: ['Qwen3ForCausalLM'],
  schema: z.object({
    ...qwenFields,
    head_dim: count.default(128),
    attention_bias: z.boolean().default(false),
  }),
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { rms_norm_eps: eps, attention_bias: bias } = config;
    const windows = qwenWindows(config);
    return llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(eps),
      attention: (at, base) => normedAttention(at, { ...base, bias, window: windows[base.layer] }, eps),
    });
  },
  ...llamaTensors,
});
