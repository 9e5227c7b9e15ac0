// The models that needletail runs, found by a config's architecture.
import { NeedletailError } from '../util/errors.ts';
import { gpt2 } from './gpt2.ts';
import { llama } from './llama.ts';
import { mistral } from './mistral.ts';
import type { HFConfig, ModelDefinition } from './model-definition.ts';

const MODELS: readonly ModelDefinition[] = [gpt2, llama, mistral];

/** The definition for a checkpoint's config. Throws `unsupported_model` naming the supported architectures. */
export function findModel(config: HFConfig): ModelDefinition {
  const architectures = architecturesOf(config);
  const found = MODELS.find((model) => model.architectures.some((name) => architectures.includes(name)));
  if (found) return found;
  const wanted = architectures.length > 0 ? architectures.join(', ') : 'a config.json without "architectures"';
  throw new NeedletailError(
    'unsupported_model',
    `${wanted} is not supported; these architectures are: ${supportedArchitectures().join(', ')}`,
  );
}

export function supportedArchitectures(): readonly string[] {
  return MODELS.flatMap((model) => model.architectures);
}

/** What the config names; where it names nothing, its model_type's own. */
function architecturesOf(config: HFConfig): readonly unknown[] {
  const { architectures, model_type: modelType } = config;
  if (Array.isArray(architectures) && architectures.length > 0) return architectures;
  return MODELS.find((model) => model.modelType === modelType)?.architectures ?? [];
}
