// A ready plan has its own limits: settings that were left alone follow them, others must lie within.
import type { Plan } from '../compiler/plan.ts';
import { NeedletailError } from '../util/errors.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from './config.ts';

/** Throws `bad_plan` naming the setting that the plan was not built for. */
export function fitToPlan(config: EngineConfig, plan: Plan): EngineConfig & { readonly maxModelLen: number } {
  const { limits, model, blockSize, header } = plan;
  checkRecipe(config, header.recipe);
  if (config.blockSize !== blockSize && config.blockSize !== DEFAULT_ENGINE_CONFIG.blockSize)
    refuse(
      'blockSize',
      `is ${config.blockSize}, the plan's ${blockSize}`,
      `--block-size ${config.blockSize}`,
    );
  return {
    ...config,
    blockSize,
    maxModelLen: within('maxModelLen', '--max-model-len', config.maxModelLen, null, model.maxModelLen),
    maxNumSeqs: within(
      'maxNumSeqs',
      '--max-num-seqs',
      config.maxNumSeqs,
      DEFAULT_ENGINE_CONFIG.maxNumSeqs,
      limits.maxNumSeqs,
    ),
    maxNumBatchedTokens: within(
      'maxNumBatchedTokens',
      '--max-num-batched-tokens',
      config.maxNumBatchedTokens,
      DEFAULT_ENGINE_CONFIG.maxNumBatchedTokens,
      limits.maxNumBatchedTokens,
    ),
  };
}

/** `recipe` is as `recipeName` gives it. */
function checkRecipe({ dtype, activationDType }: EngineConfig, recipe: string): void {
  const [built] = recipe.split(',');
  if (dtype !== 'auto' && dtype !== built)
    refuse('dtype', `is ${dtype}, but the plan was built in ${built}`, `--dtype ${dtype}`);
  if (activationDType === 'float32' && built !== 'float32' && !recipe.includes('float32 activations'))
    refuse('activationDType', 'is float32, but the plan rounds activations', '--activation-dtype float32');
}

function within(
  name: string,
  flag: string,
  wanted: number | null,
  unset: number | null,
  planned: number,
): number {
  if (wanted === null || wanted === unset) return planned;
  if (wanted > planned)
    refuse(name, `is ${wanted}, but the plan was built for ${planned}`, `${flag} ${wanted}`);
  return wanted;
}

function refuse(param: string, complaint: string, flags: string): never {
  const remedy = `drop the setting, or build the plan again with ${flags}`;
  throw new NeedletailError('bad_plan', `${param} ${complaint}; ${remedy}`, { param });
}
