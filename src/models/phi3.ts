// Phi-3, Phi-3.5 and Phi-4: Llama's shape with fused projections; heads may turn in part, angles may follow LongRoPE.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { GatedMLP } from '../nn/mlp.ts';
import { rmsNorm } from '../nn/norm.ts';
import { count } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const phi3 = defineModel({
  modelType: 'phi3',
  architectures: ['Phi3ForCausalLM'],
  schema: z.object({
    ...llamaFields,
    rms_norm_eps: z.number().default(1e-5),
    max_position_embeddings: count.default(4096),
    partial_rotary_factor: z.number().positive().max(1).default(1),
    sliding_window: count.nullish(),
  }),
  neutralFields: ['embd_pdrop', 'resid_pdrop'],
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          window: config.sliding_window ?? null,
          names: { qkv: 'qkv_proj', output: 'o_proj' },
        }),
      mlp: (at, base) => new GatedMLP(at, { ...base, names: { gateUp: 'gate_up_proj', down: 'down_proj' } }),
    }),
  ...llamaTensors,
});
