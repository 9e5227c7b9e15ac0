// What a compilation is asked for: everything it depends on, as plain data.
import type { KernelDescription } from '../kernels/kernel.ts';
import type { HFConfig, ModelDefinition } from '../models/model-definition.ts';
import type { FloatDType, KVCacheDType } from '../tensor/dtype.ts';
import type { ActivationPrecision } from '../tensor/precision.ts';
import type { TensorCatalog } from '../tensor/tensor-source.ts';
import type { ActivationFormat, WeightFormat } from '../tensor/weight-format.ts';
import type { StepLimits, Target } from './plan.ts';

/** Which weights become codes, and how. */
export interface QuantizationRules {
  /** As `--quantization` names it. */
  readonly name: string;
  readonly weights: WeightFormat;
  /** What activations become before they meet these weights; null: they stay floats. */
  readonly activations: ActivationFormat | null;
  /** Layers left as they are: patterns on parameters' names, in which `*` is any text. Embeddings always are. */
  readonly keep: readonly string[];
}

export interface CompileRecipe {
  /** Type of the weight matrices that are not quantized; on the cpu norm weights and biases stay float32. */
  readonly weightDType: FloatDType;
  readonly quantization: QuantizationRules | null;
  readonly kvDType: KVCacheDType;
  readonly activationPrecision: ActivationPrecision;
  /** Kernels whose results for a row do not depend on what else is in the step; off unless given. */
  readonly batchInvariant?: boolean;
}

/** How plans and errors name a recipe: `bfloat16`, with what differs from it. */
export function recipeName({
  weightDType,
  quantization,
  kvDType,
  activationPrecision,
  batchInvariant,
}: CompileRecipe): string {
  const weights = quantization === null ? [] : [`${quantization.name} weights`];
  const cache = kvDType === weightDType ? [] : [`${kvDType} KV cache`];
  const forbids = { auto: false, '16bit': quantization !== null, float32: weightDType !== 'float32' };
  const activations = forbids[activationPrecision] ? [`${activationPrecision} activations`] : [];
  const order = batchInvariant ? ['batch-invariant'] : [];
  return [weightDType, ...weights, ...cache, ...activations, ...order].join(', ');
}

/**
 * The type that values between launches have. The cpu computes in float32 throughout; on CUDA they take the weights' type,
 * unless rounding them is forbidden.
 */
export function activationDTypeOf({ target, recipe }: Pick<CompileRequest, 'target' | 'recipe'>): FloatDType {
  const isNarrow = target.kind === 'cuda' && recipe.activationPrecision !== 'float32';
  return isNarrow ? recipe.weightDType : 'float32';
}

export interface CompileRequest {
  readonly definition: ModelDefinition;
  readonly config: HFConfig;
  /** The checkpoint's tensors; null compiles from the config alone, with the tensors that it would have. */
  readonly tensors: TensorCatalog | null;
  readonly checkpointHash: string | null;
  readonly target: Target;
  readonly recipe: CompileRecipe;
  readonly limits: StepLimits;
  /** Tokens in a KV block. */
  readonly blockSize: number;
  readonly maxModelLen: number;
  /** The kernels of the target. */
  readonly kernels: readonly KernelDescription[];
  /** Tensor parallelism; one rank unless given. */
  readonly rank?: number;
  readonly worldSize?: number;
}
