// A ready plan has its own limits: settings that were left alone follow them, others must lie within.
import { kvDTypeFor } from '../compiler/compile-to-fit.ts';
import type { Plan } from '../compiler/plan.ts';
import { quantizationRules } from '../compiler/quantization-rules.ts';
import { recipeDetails } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from './config.ts';

/** Throws `bad_plan` naming the setting that the plan was not built for. */
export function fitToPlan(config: EngineConfig, plan: Plan): EngineConfig & { readonly maxModelLen: number } {
  const { limits, model, blockSize, header } = plan;
  checkRecipe(config, header.recipe);
  checkWeights(config, header.recipe);
  checkCache(config, plan);
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
function checkRecipe(config: EngineConfig, recipe: string): void {
  const { dtype, quantization, quantizationGroupSize, activationDType, batchInvariant } = config;
  const [built, ...details] = recipe.split(', ');
  if (dtype !== 'auto' && dtype !== built)
    refuse('dtype', `is ${dtype}, but the plan was built in ${built}`, `--dtype ${dtype}`);
  if (quantization !== null) {
    const { name } = quantizationRules(quantization, quantizationGroupSize, []);
    if (!details.includes(`${name} weights`))
      refuse('quantization', `is ${name}, but the plan is ${recipe}`, `--quantization ${quantization}`);
  }
  const isQuantized = details.some((detail) => detail.endsWith(' weights'));
  if (activationDType === '16bit' && isQuantized && !recipe.includes(' activations'))
    refuse('activationDType', 'is 16bit, but the plan may quantize activations', '--activation-dtype 16bit');
  if (activationDType === 'float32' && built !== 'float32' && !recipe.includes('float32 activations'))
    refuse('activationDType', 'is float32, but the plan rounds activations', '--activation-dtype float32');
  if (batchInvariant && !recipe.includes('batch-invariant'))
    refuse('batchInvariant', "is true, but the plan's kernels follow the batch", '--batch-invariant');
}

/** What went into the plan's weights cannot be changed any more, and not all of it is known. */
function checkWeights(config: EngineConfig, recipe: string): void {
  const { quantization, quantizationGroupSize, loadFormat } = config;
  if (loadFormat !== 'auto')
    refuse('loadFormat', `is ${loadFormat}, but the plan brings its weights`, `--load-format ${loadFormat}`);
  // With its recipe the size of groups has been compared by name.
  const details = recipeDetails({
    ...config,
    quantizationGroupSize: quantization === null ? quantizationGroupSize : null,
  });
  if (details.length > 0)
    refuse('quantization', `has ${details[0]} beside it, but the plan is ${recipe}`, details[0]);
}

function checkCache({ kvCacheDType }: EngineConfig, { kvCacheGroups }: Plan): void {
  const built = kvCacheGroups[0]?.layers[0].dtype;
  if (kvCacheDType === 'auto' || built === undefined || built === kvDTypeFor(kvCacheDType, 'float32')) return;
  refuse(
    'kvCacheDType',
    `is ${kvCacheDType}, but the plan's cache is ${built}`,
    `--kv-cache-dtype ${kvCacheDType}`,
  );
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
