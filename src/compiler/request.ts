// What a compilation is asked for: everything it depends on, as plain data.
import type { KernelDescription } from '../kernels/kernel.ts';
import type { HFConfig, ModelDefinition } from '../models/model-definition.ts';
import type { FloatDType } from '../tensor/dtype.ts';
import type { TensorCatalog } from '../tensor/tensor-source.ts';
import type { StepLimits, Target } from './plan.ts';

export interface CompileRecipe {
  /** Type of the weight matrices; norm weights and biases stay float32. */
  readonly weightDType: FloatDType;
  readonly kvDType: FloatDType;
  /** `float32` forbids kernels that round activations to the weights' 16-bit type. */
  readonly activationPrecision: 'auto' | 'float32';
}

/** How plans and errors name a recipe: `bfloat16`, with what differs from it. */
export function recipeName({ weightDType, kvDType, activationPrecision }: CompileRecipe): string {
  const cache = kvDType === weightDType ? [] : [`${kvDType} KV cache`];
  const isExact = activationPrecision === 'float32' && weightDType !== 'float32';
  return [weightDType, ...cache, ...(isExact ? ['float32 activations'] : [])].join(', ');
}

/**
 * The type that values between launches have. The cpu computes in float32 throughout; on CUDA they take the weights' type,
 * unless rounding them is forbidden.
 */
export function activationDTypeOf({ target, recipe }: Pick<CompileRequest, 'target' | 'recipe'>): FloatDType {
  const isNarrow = target.kind === 'cuda' && recipe.activationPrecision === 'auto';
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
