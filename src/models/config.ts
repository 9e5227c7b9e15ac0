// Reads a config.json: known fields checked, fields without a meaning for inference ignored, any other refused by name.
import { z } from 'zod';
import type { ActivationKind } from '../ir/ops/activation-kinds.ts';
import { NeedletailError } from '../util/errors.ts';
import type { HFConfig } from './model-definition.ts';

/** Fields that any config may carry and that do not change what a forward pass computes. */
const NEUTRAL_FIELDS: ReadonlySet<string> = new Set([
  'architectures',
  'model_type',
  'transformers_version',
  '_name_or_path',
  '_commit_hash',
  'tokenizer_class',
  'name_or_path',
  'auto_map',
  'custom_pipelines',
  'model_max_length',
  'cache_implementation',
  'dtype',
  'torch_dtype',
  'use_cache',
  'initializer_range',
  'gradient_checkpointing',
  'is_decoder',
  '_attn_implementation',
  '_attn_implementation_autoset',
  'attn_implementation',
  '_flash_attn_2_enabled',
  'bos_token_id',
  'eos_token_id',
  'pad_token_id',
  'unk_token_id',
  'sep_token_id',
  'decoder_start_token_id',
  'id2label',
  'label2id',
  'num_labels',
  'problem_type',
  'finetuning_task',
  'task_specific_params',
  'prefix',
  'return_dict',
  'output_attentions',
  'output_hidden_states',
  'output_scores',
  'return_dict_in_generate',
  'tie_encoder_decoder',
  'torchscript',
  'use_bfloat16',
  'tf_legacy_loss',
  'chunk_size_feed_forward',
  'do_sample',
  'temperature',
  'top_k',
  'top_p',
  'typical_p',
  'min_p',
  'num_beams',
  'num_beam_groups',
  'max_length',
  'min_length',
  'max_new_tokens',
  'early_stopping',
  'diversity_penalty',
  'repetition_penalty',
  'length_penalty',
  'no_repeat_ngram_size',
  'encoder_no_repeat_ngram_size',
  'bad_words_ids',
  'num_return_sequences',
  'forced_bos_token_id',
  'forced_eos_token_id',
  'remove_invalid_values',
  'exponential_decay_length_penalty',
  'suppress_tokens',
  'begin_suppress_tokens',
  'unsloth_version',
  'unsloth_fixed',
  'attention_dropout',
  'hidden_dropout',
  'pretraining_tp',
]);

const ACTIVATION_NAMES: Readonly<Record<string, ActivationKind>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_python: 'gelu',
  gelu_new: 'geluTanh',
  gelu_fast: 'geluTanh',
  gelu_accurate: 'geluTanh',
  gelu_pytorch_tanh: 'geluTanh',
  gelu_python_tanh: 'geluTanh',
  quick_gelu: 'quickGelu',
  relu: 'relu',
  relu2: 'reluSquared',
  sigmoid: 'sigmoid',
  tanh: 'tanh',
};

/** A count such as `hidden_size`. */
export const count = z.int().positive();

/** A number of layers; the bound keeps a broken config from building a graph without end. */
export const layerCount = count.max(1000);

/** A field of which one value alone is implemented, which is also what it means where it is missing. */
export function only<T extends string | number | boolean | null>(value: T): z.ZodDefault<z.ZodLiteral<T>> {
  return z.literal(value).default(() => value as never);
}

/** How far each layer looks back, as newer configs list it. */
export const layerTypes = z.array(z.enum(['full_attention', 'sliding_attention'])).nullish();

/** An activation by any of the names that configs use for it. */
export const activationName = z.string().transform((name): ActivationKind => {
  const kind = ACTIVATION_NAMES[name];
  if (kind) return kind;
  const known = Object.keys(ACTIVATION_NAMES).join(', ');
  throw new NeedletailError(
    'unsupported_model',
    `activation ${name} is not implemented; these are: ${known}`,
  );
});

/**
 * The fields of `schema`, checked. `neutral` lists further fields that this model_type may carry without a meaning for
 * inference. Other fields are accepted while they are off (null, false, 0, empty) and refused otherwise.
 *
 * Throws `bad_checkpoint` for a missing or malformed field, `unsupported_model` for one that is not implemented.
 */
export function readConfig<S extends z.ZodObject>(
  schema: S,
  config: HFConfig,
  neutral: readonly string[],
): z.output<S> {
  const modelType = String(config['model_type']);
  refuseQuantized(config, modelType);
  const result = schema.safeParse(config);
  if (!result.success) throw refusal(result.error.issues, modelType);
  const unknown = Object.entries(config).filter(
    ([field, value]) => !isNeutral(field, schema, neutral) && !isOff(value),
  );
  if (unknown.length === 0) return result.data;
  const fields = unknown.map(([field, value]) => `${field}: ${JSON.stringify(value)}`).join(', ');
  throw new NeedletailError(
    'unsupported_model',
    `config.json of a ${modelType} model sets what is not implemented: ${fields}. ` +
      'If a field has no meaning for inference, remove it from config.json.',
  );
}

/** Columns of each head where the config does not name them. */
export function evenShare(hiddenSize: number, numHeads: number): number {
  if (hiddenSize % numHeads === 0) return hiddenSize / numHeads;
  throw new NeedletailError(
    'bad_checkpoint',
    `config.json: the hidden size ${hiddenSize} is not a multiple of the number of heads ${numHeads}`,
  );
}

/** A value that is none of those implemented (`only`, an enumeration) is not the checkpoint's fault. */
function refusal(issues: readonly z.core.$ZodIssue[], modelType: string): NeedletailError {
  const problems = issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ');
  if (issues.some(({ code }) => code !== 'invalid_value' && code !== 'unrecognized_keys')) {
    return new NeedletailError('bad_checkpoint', `config.json of a ${modelType} model: ${problems}`);
  }
  const message = `config.json of a ${modelType} model sets what is not implemented: ${problems}`;
  return new NeedletailError('unsupported_model', message);
}

function refuseQuantized({ quantization_config: quantization }: HFConfig, modelType: string): void {
  if (typeof quantization !== 'object' || quantization === null) return;
  const { quant_method: method } = quantization as HFConfig;
  const named = method === undefined ? 'no quant_method' : JSON.stringify(method);
  throw new NeedletailError(
    'unsupported_model',
    `the weights of this ${modelType} model are quantized (quantization_config: ${named}), which is not implemented; ` +
      'take a checkpoint of bfloat16, float16 or float32 weights',
  );
}

function isNeutral(field: string, schema: z.ZodObject, neutral: readonly string[]): boolean {
  return field in schema.shape || NEUTRAL_FIELDS.has(field) || neutral.includes(field);
}

/** The window of each layer by its type; a list of another length than the layers is refused. */
export function windowsOf(
  types: z.output<typeof layerTypes>,
  numLayers: number,
  window: number | null,
): readonly (number | null)[] {
  if (types && types.length !== numLayers) {
    throw new NeedletailError(
      'bad_checkpoint',
      `config.json: layer_types lists ${types.length} layers, but the model has ${numLayers}`,
    );
  }
  return (types ?? []).map((type) => (type === 'sliding_attention' ? window : null));
}

function isOff(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0;
  return !value;
}
