// GPT-OSS: experts with clamped gates, attention with sinks, every other layer in a window.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { MixtureOfExperts, stackedExperts, type MixtureOfExpertsOptions } from '../nn/experts.ts';
import { activation, add, clamp, multiply } from '../nn/functional.ts';
import { rmsNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { count, layerTypes, only, windowsOf } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

const schema = z.object({
  ...llamaFields,
  hidden_act: only('silu'),
  rms_norm_eps: z.number().default(1e-5),
  head_dim: count.default(64),
  attention_bias: z.boolean().default(true),
  sliding_window: count.default(128),
  layer_types: layerTypes,
  num_local_experts: count.default(128),
  num_experts_per_tok: count.default(4),
  /** Gates stay below it, up projections within ±it. */
  swiglu_limit: z.number().positive().default(7),
});

/** Tokens that each layer looks back at; where the config lists no types, the first layer has the window. */
function windows(config: z.output<typeof schema>): readonly (number | null)[] {
  const { num_hidden_layers: numLayers, sliding_window: window } = config;
  if (config.layer_types) return windowsOf(config.layer_types, numLayers, window);
  return Array.from({ length: numLayers }, (_, layer) => (layer % 2 === 0 ? window : null));
}

/** (up + 1) · gate · sigmoid(1.702 · gate). */
function clampedGating(limit: number): MixtureOfExpertsOptions['gating'] {
  return (gate, up) => {
    const gated = activation(clamp(gate, null, limit), 'quickGelu');
    return add(multiply(clamp(up, -limit, limit), gated), gated);
  };
}

/** Gates and up projections take turns among the rows of one tensor. */
function tensors(scope: Scope): MixtureOfExpertsOptions['tensors'] {
  return (part, shape) =>
    part === 'down'
      ? stackedExperts(scope, 'experts.down_proj', shape, { start: 0, step: 1 })
      : stackedExperts(scope, 'experts.gate_up_proj', shape, { start: part === 'gate' ? 0 : 1, step: 2 });
}

function logits(scope: Scope, config: z.output<typeof schema>, contextLength: number): Tensor {
  const windowOf = windows(config);
  return llamaLogits(scope, config, contextLength, {
    norm: rmsNorm(config.rms_norm_eps),
    attention: (at, base) =>
      new Attention(at, {
        ...base,
        bias: config.attention_bias,
        window: windowOf[base.layer],
        hasSinks: true,
      }),
    mlp: (at, { hiddenSize, intermediateSize }) =>
      new MixtureOfExperts(at, {
        hiddenSize,
        intermediateSize,
        numExperts: config.num_local_experts,
        router: { name: 'router', bias: true },
        routing: {
          numExpertsPerToken: config.num_experts_per_tok,
          scoring: 'softmax',
          normalize: true,
          scale: 1,
          groups: null,
        },
        tensors: tensors(at),
        gating: clampedGating(config.swiglu_limit),
      }),
  });
}

export const gptOss = defineModel({
  modelType: 'gpt_oss',
  architectures: ['GptOssForCausalLM'],
  schema,
  neutralFields: [
    'initial_context_length',
    'experts_per_token',
    'output_router_logits',
    'router_aux_loss_coef',
  ],
  facts: llamaFacts,
  forward: logits,
  ...llamaTensors,
});
