// Qwen2 and Qwen2.5: Llama's shape with biases on queries, keys and values; later layers may have a window.
import { z } from 'zod';
import { Attention } from '../nn/attention.ts';
import { rmsNorm } from '../nn/norm.ts';
import { count, layerTypes, windowsOf } from './config.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaFields, llamaLogits, llamaTensors } from './llama.ts';

/** Fields of Qwen's windows, and what else its models name alike. */
export const qwenFields = {
  ...llamaFields,
  rms_norm_eps: z.number().default(1e-6),
  max_position_embeddings: count.default(32768),
  use_sliding_window: z.boolean().default(false),
  sliding_window: count.nullable().default(4096),
  /** Layers before this one see everything, whatever the window. */
  max_window_layers: z.int().nonnegative().default(28),
  layer_types: layerTypes,
};

/** Tokens that each layer looks back at. */
export function qwenWindows(config: z.output<z.ZodObject<typeof qwenFields>>): readonly (number | null)[] {
  const { num_hidden_layers: numLayers, layer_types: types, max_window_layers: firstLayer } = config;
  const window = config.use_sliding_window ? config.sliding_window : null;
  if (types) return windowsOf(types, numLayers, window);
  return Array.from({ length: numLayers }, (_, layer) => (layer >= firstLayer ? window : null));
}

export const qwen2 = defineModel({
  modelType: 'qwen2',
  architectures: ['Qwen2ForCausalLM'],
  schema: z.object(qwenFields),
  facts: llamaFacts,
  forward(scope, config, contextLength) {
    const windows = qwenWindows(config);
    return llamaLogits(scope, config, contextLength, {
      norm: rmsNorm(config.rms_norm_eps),
      attention: (at, base) =>
        new Attention(at, { ...base, bias: true, outputBias: false, window: windows[base.layer] }),
    });
  },
  ...llamaTensors,
});
