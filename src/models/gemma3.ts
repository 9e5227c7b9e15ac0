// Gemma 3, its text model: Gemma 2 with normed heads instead of capped scores; windowed layers turn by other angles.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { RMSNorm } from '../nn/norm.ts';
import { count, windowsOf } from './config.ts';
import { defineModel } from './define-model.ts';
import { WEIGHT_OFFSET } from './gemma.ts';
import { gemma2Attention, gemma2Fields, gemma2Variant } from './gemma2.ts';
import { llamaFacts, llamaLogits, llamaTensors } from './llama.ts';
import { readRope, ropeFor, type RopeFields } from './rope-config.ts';

const angles = z.record(z.string(), z.unknown());

const schema = z.object({
  ...gemma2Fields,
  max_position_embeddings: count.default(131072),
  rope_theta: z.number().positive().default(1_000_000),
  rope_local_base_freq: z.number().positive().default(10_000),
  /** Newer configs give the angles of each type of layer, older ones those above. */
  rope_parameters: z.object({ full_attention: angles, sliding_attention: angles }).nullish(),
  /** Every so many layers, one sees everything. */
  sliding_window_pattern: count.default(6),
});

type Gemma3Config = z.output<typeof schema>;

function windows(config: Gemma3Config): readonly (number | null)[] {
  const { num_hidden_layers: numLayers, sliding_window: window, sliding_window_pattern: pattern } = config;
  if (config.layer_types) return windowsOf(config.layer_types, numLayers, window);
  return Array.from({ length: numLayers }, (_, layer) => ((layer + 1) % pattern === 0 ? null : window));
}

/** Fields of the angles of layers that see everything. */
function globalRope({
  rope_theta,
  rope_scaling,
  rope_parameters,
  max_position_embeddings,
}: Gemma3Config): RopeFields {
  return {
    rope_theta,
    rope_scaling,
    rope_parameters: rope_parameters?.full_attention,
    max_position_embeddings,
  };
}

/** Fields of the angles of windowed layers. */
function localRope({
  rope_local_base_freq,
  rope_parameters,
  max_position_embeddings,
}: Gemma3Config): RopeFields {
  const rope_theta = rope_local_base_freq;
  return { rope_theta, rope_parameters: rope_parameters?.sliding_attention, max_position_embeddings };
}

export const gemma3 = defineModel({
  modelType: 'gemma3_text',
  architectures: ['Gemma3ForCausalLM'],
  schema,
  aliases: { _sliding_window_pattern: 'sliding_window_pattern' },
  facts: (config) => llamaFacts({ ...config, ...globalRope(config) }),
  forward(scope, config, contextLength) {
    const { head_dim: headDim, rms_norm_eps: eps } = config;
    const windowOf = windows(config);
    const rope = ropeFor(readRope(globalRope(config)), headDim, contextLength);
    const turnLocally = ropeFor(readRope(localRope(config)), headDim, contextLength);
    return llamaLogits(scope, { ...config, hidden_act: config.hidden_activation }, contextLength, {
      ...gemma2Variant(config),
      rope,
      attention: (at, base) =>
        new Attention(at, {
          ...gemma2Attention(config, base),
          window: windowOf[base.layer],
          rope: windowOf[base.layer] === null ? rope : turnLocally,
          queryNorm: new RMSNorm(at.at('q_norm'), headDim, eps, WEIGHT_OFFSET),
          keyNorm: new RMSNorm(at.at('k_norm'), headDim, eps, WEIGHT_OFFSET),
        }),
    });
  },
  ...llamaTensors,
});
