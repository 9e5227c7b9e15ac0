// DeepSeek-V3 and R1: experts scored by sigmoid and corrected, chosen from the best groups.
import { z } from 'zod';
import { only } from './config.ts';
import { deepseekFields, deepseekLogits, DEEPSEEK_NEUTRAL_FIELDS, expertGroups } from './deepseek.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaTensors } from './llama.ts';
import type { HFConfig } from './model-definition.ts';
import { isRotaryBuffer } from './tensor-names.ts';

/** Layers behind the last one predict further tokens at once; checkpoints carry them along. */
function isPredictionLayer(tensor: string, config: HFConfig): boolean {
  const layer = /^model\.layers\.(\d+)\./.exec(tensor)?.[1];
  return layer !== undefined && Number(layer) >= (config['num_hidden_layers'] as number);
}

export const deepseekV3 = defineModel({
  modelType: 'deepseek_v3',
  architectures: ['DeepseekV3ForCausalLM'],
  schema: z.object({
    ...deepseekFields,
    scoring_func: only('sigmoid'),
    topk_method: only('noaux_tc'),
    norm_topk_prob: z.boolean().default(true),
    routed_scaling_factor: z.number().default(2.5),
    rope_interleave: z.boolean().default(true),
  }),
  neutralFields: DEEPSEEK_NEUTRAL_FIELDS,
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    deepseekLogits(scope, config, contextLength, {
      routing: {
        scoring: 'sigmoid',
        normalize: config.norm_topk_prob,
        scale: config.routed_scaling_factor,
        groups: expertGroups(config, 'twoBest'),
      },
      hasCorrection: true,
      interleaved: config.rope_interleave,
    }),
  ...llamaTensors,
  isBuffer: (tensor, config) => isRotaryBuffer(tensor) || isPredictionLayer(tensor, config),
});
