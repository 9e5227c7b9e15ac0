// InternLM: Llama with biases in attention, and a spelling of its own for the angles.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { rmsNorm } from '../nn/norm.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

const schema = z.object({
  ...llamaFields,
  rms_norm_eps: z.number().default(1e-6),
  bias: z.boolean().default(true),
  rotary: z
    .strictObject({
      base: z.number().positive().default(10_000),
      type: z.enum(['origin', 'dynamic']).default('dynamic'),
      scaling_factor: z.number().positive().default(1),
    })
    .nullish(),
});

/** The angles as Llama spells them. */
function asLlama({ rotary, ...config }: z.output<typeof schema>): Omit<z.output<typeof schema>, 'rotary'> {
  if (!rotary) return config;
  const { base: rope_theta, type, scaling_factor: factor } = rotary;
  return { ...config, rope_theta, rope_scaling: type === 'dynamic' ? { type, factor } : null };
}

export const internlm = defineModel({
  modelType: 'internlm',
  architectures: ['InternLMForCausalLM'],
  schema,
  facts: (config) => llamaFacts(asLlama(config)),
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, asLlama(config), contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      attention: (at, base) => new Attention(at, { ...base, bias: config.bias }),
    }),
  ...llamaTensors,
});
