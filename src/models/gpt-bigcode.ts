// GPT-BigCode (StarCoder, SantaCoder): GPT-2 whose queries share one head of keys and values, weights not transposed.
import { z } from 'zod';
import { defineModel } from './define-model.ts';
import { gpt2Facts, gpt2Fields, gpt2Logits, gpt2NeutralFields, gpt2Tensors } from './gpt2.ts';

export const gptBigCode = defineModel({
  modelType: 'gpt_bigcode',
  architectures: ['GPTBigCodeForCausalLM'],
  schema: z.object({
    ...gpt2Fields,
    multi_query: z.boolean().default(true),
  }),
  neutralFields: [
    ...gpt2NeutralFields,
    'attention_softmax_in_fp32',
    'scale_attention_softmax_in_fp32',
    'num_key_value_heads', // follows from multi_query
    'inference_runner',
    'max_batch_size',
    'max_sequence_length',
    'pad_key_length',
    'pre_allocate_kv_cache',
    'validate_runner_input',
  ],
  facts: gpt2Facts,
  forward: (scope, config) =>
    gpt2Logits(scope, config, {
      transpose: false,
      numKvHeads: config.multi_query ? 1 : config.n_head,
      order: 'grouped',
      scoreDivisor: () => 1,
    }),
  ...gpt2Tensors,
});
