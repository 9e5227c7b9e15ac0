// Phi-1, Phi-1.5 and Phi-2: attention and a plain feed-forward read one LayerNorm beside each other; biases everywhere.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { ParallelBlock } from '../nn/block.ts';
import { MLP } from '../nn/mlp.ts';
import { LayerNorm, layerNorm } from '../nn/norm.ts';
import type { Scope } from '../nn/tensor.ts';
import { activationName } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

export const phi = defineModel({
  modelType: 'phi',
  architectures: ['PhiForCausalLM'],
  schema: z.object({
    ...llamaFields,
    hidden_act: activationName.default('geluTanh'),
    layer_norm_eps: z.number().default(1e-5),
    partial_rotary_factor: z.number().positive().max(1).default(0.5),
    qk_layernorm: z.boolean().default(false),
  }),
  neutralFields: ['embd_pdrop', 'resid_pdrop'],
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const { layer_norm_eps: eps } = config;
    const headNorm = (at: Scope, headDim: number) =>
      config.qk_layernorm ? new LayerNorm(at, headDim, eps) : null;
    return llamaLogits(scope, config, contextLength, {
      norm: layerNorm(eps),
      attention: (at, base) =>
        new Attention(at, {
          ...base,
          bias: true,
          names: { ...base.names, output: 'dense' },
          queryNorm: headNorm(at.at('q_layernorm'), base.headDim),
          keyNorm: headNorm(at.at('k_layernorm'), base.headDim),
        }),
      mlp: (at, base) => new MLP(at, { ...base, bias: true, names: { up: 'fc1', down: 'fc2' } }),
      block: (at, { attention, mlp, norm }) =>
        new ParallelBlock(at, { norm: norm('input_layernorm'), attention, mlp }),
      frame: {
        headBias: true,
        names: {
          embedding: 'model.embed_tokens',
          layers: 'model.layers',
          norm: 'model.final_layernorm',
          head: 'lm_head',
        },
      },
    });
  },
  ...llamaTensors,
});
