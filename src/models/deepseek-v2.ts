// DeepSeek-V2: experts scored by softmax, chosen from all or from the best groups.
import { z } from 'zod';
import { only } from './config.ts';
import { deepseekFields, deepseekLogits, DEEPSEEK_NEUTRAL_FIELDS, expertGroups } from './deepseek.ts';
import { defineModel } from './define-model.ts';
import { llamaFacts, llamaTensors } from './llama.ts';

export const deepseekV2 = defineModel({
  modelType: 'deepseek_v2',
  architectures: ['DeepseekV2ForCausalLM'],
  schema: z.object({
    ...deepseekFields,
    scoring_func: only('softmax'),
    topk_method: z.enum(['greedy', 'group_limited_greedy']).default('greedy'),
    norm_topk_prob: only(false),
    routed_scaling_factor: z.number().default(1),
  }),
  neutralFields: DEEPSEEK_NEUTRAL_FIELDS,
  facts: llamaFacts,
  forward: (scope, config, contextLength) =>
    deepseekLogits(scope, config, contextLength, {
      routing: {
        scoring: 'softmax',
        normalize: false,
        scale: config.routed_scaling_factor,
        groups: config.topk_method === 'greedy' ? null : expertGroups(config, 'best'),
      },
      hasCorrection: false,
      interleaved: true,
    }),
  ...llamaTensors,
});
