// The precisions that can be asked for, by the names that flags and settings have for them.

/** Recipes of smaller weights. */
export const QUANTIZATIONS = ['int8', 'int4', 'awq', 'gptq', 'fp8', 'smoothquant'] as const;
export type Quantization = (typeof QUANTIZATIONS)[number];

/** Weights left in 16 bits unless something else is asked for: small ones, whose errors are not averaged out. */
export const DEFAULT_QUANTIZATION_KEEP: readonly string[] = ['lm_head', 'router'];

/** What keys and values are stored in: `auto` is the weights' type, `fp8` is e4m3. */
export const KV_CACHE_SETTINGS = ['auto', 'fp8', 'int8', 'bfloat16', 'float16', 'float32'] as const;
export type KVCacheSetting = (typeof KV_CACHE_SETTINGS)[number];

/**
 * What may become of activations: `auto`, whatever is fastest with the recipe's weights; `16bit` forbids to quantize them,
 * `float32` to round them at all.
 */
export const ACTIVATION_PRECISIONS = ['auto', '16bit', 'float32'] as const;
export type ActivationPrecision = (typeof ACTIVATION_PRECISIONS)[number];

/** The settings of smaller numbers, as an engine has them. */
export interface QuantizationSettings {
  /** null: as the checkpoint is. */
  readonly quantization: Quantization | null;
  /** Columns of a weight that share a scale; null: the recipe's own. */
  readonly quantizationGroupSize: number | null;
  /** Weights left in 16 bits: patterns on their names (`*` is any text), and the roles `lm_head` and `router`. */
  readonly quantizationKeep: readonly string[];
  readonly kvCacheDType: KVCacheSetting;
}

/** Settings, as flags, that say how a recipe is applied, where they are not the default. */
export function recipeDetails(settings: QuantizationSettings): readonly string[] {
  const { quantizationGroupSize, quantizationKeep } = settings;
  const isDefault = quantizationKeep.join() === DEFAULT_QUANTIZATION_KEEP.join();
  return [
    ...(quantizationGroupSize === null ? [] : [`--quantization-group-size ${quantizationGroupSize}`]),
    ...(isDefault ? [] : [`--quantization-keep ${quantizationKeep.join(' ')}`]),
  ];
}

export const NO_QUANTIZATION: QuantizationSettings = {
  quantization: null,
  quantizationGroupSize: null,
  quantizationKeep: DEFAULT_QUANTIZATION_KEEP,
  kvCacheDType: 'auto',
};
