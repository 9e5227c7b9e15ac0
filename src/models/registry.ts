// The models that needletail runs, found by a config's architecture.
import { NeedletailError } from '../util/errors.ts';
import { baichuan } from './baichuan.ts';
import { bloom } from './bloom.ts';
import { chatglm } from './chatglm.ts';
import { cohere } from './cohere.ts';
import { deepseekV2 } from './deepseek-v2.ts';
import { deepseekV3 } from './deepseek-v3.ts';
import { falcon } from './falcon.ts';
import { gemma } from './gemma.ts';
import { gemma2 } from './gemma2.ts';
import { gemma3 } from './gemma3.ts';
import { glm } from './glm.ts';
import { gptBigCode } from './gpt-bigcode.ts';
import { gptNeoX } from './gpt-neox.ts';
import { gptOss } from './gpt-oss.ts';
import { gpt2 } from './gpt2.ts';
import { gptj } from './gptj.ts';
import { granite } from './granite.ts';
import { internlm } from './internlm.ts';
import { internlm2 } from './internlm2.ts';
import { llama } from './llama.ts';
import { mistral } from './mistral.ts';
import { mixtral } from './mixtral.ts';
import { mpt } from './mpt.ts';
import { olmo2 } from './olmo2.ts';
import { opt } from './opt.ts';
import { phi } from './phi.ts';
import { phi3 } from './phi3.ts';
import { qwen2 } from './qwen2.ts';
import { qwen3Moe } from './qwen3-moe.ts';
import { qwen3 } from './qwen3.ts';
import { stablelm } from './stablelm.ts';
import { starcoder2 } from './starcoder2.ts';
import type { HFConfig, ModelDefinition } from './model-definition.ts';

const MODELS: readonly ModelDefinition[] = [
  baichuan,
  bloom,
  chatglm,
  cohere,
  deepseekV2,
  deepseekV3,
  falcon,
  gemma,
  gemma2,
  gemma3,
  glm,
  gpt2,
  gptBigCode,
  gptj,
  gptNeoX,
  gptOss,
  granite,
  internlm,
  internlm2,
  llama,
  mistral,
  mixtral,
  mpt,
  olmo2,
  opt,
  phi,
  phi3,
  qwen2,
  qwen3,
  qwen3Moe,
  stablelm,
  starcoder2,
];

/**
 * The definition for a checkpoint's config; the caller's `own` ones are asked first. Throws `unsupported_model` naming
 * the supported architectures.
 */
export function findModel(config: HFConfig, own: readonly ModelDefinition[] = []): ModelDefinition {
  const models = [...own, ...MODELS];
  const architectures = architecturesOf(config, models);
  const found = models.find((model) => model.architectures.some((name) => architectures.includes(name)));
  if (found) return found;
  const wanted =
    architectures.length > 0 ? architectures.join(', ') : 'a config.json without "architectures"';
  throw new NeedletailError(
    'unsupported_model',
    `${wanted} is not supported; these architectures are: ${architectureNames(models).join(', ')}; ` +
      'a definition of your own is given by --model-definition FILE',
  );
}

export function supportedArchitectures(): readonly string[] {
  return architectureNames(MODELS);
}

function architectureNames(models: readonly ModelDefinition[]): readonly string[] {
  return models.flatMap((model) => model.architectures);
}

/** What the config names; where it names nothing, its model_type's own. */
function architecturesOf(config: HFConfig, models: readonly ModelDefinition[]): readonly unknown[] {
  const { architectures, model_type: modelType } = config;
  if (Array.isArray(architectures) && architectures.length > 0) return architectures;
  return models.find((model) => model.modelType === modelType)?.architectures ?? [];
}
