// Normalisation layers. A norm of fewer columns than its input has norms each group of that size, such as a head.
import type { WeightPart } from '../ir/graph.ts';
import * as functional from './functional.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

export class RMSNorm extends Module {
  readonly weight: Tensor;
  readonly eps: number;
  readonly weightOffset: number;

  /** `weightOffset`: 1 where checkpoints store the weight's distance from 1. */
  constructor(scope: Scope, size: number, eps: number, weightOffset = 0) {
    super(scope);
    this.weight = scope.parameter('weight', [size]);
    this.eps = eps;
    this.weightOffset = weightOffset;
  }

  protected forward(x: Tensor): Tensor {
    return functional.rmsNorm(x, this.weight, this.eps, this.weightOffset);
  }
}

export class LayerNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly eps: number;

  constructor(scope: Scope, size: number, eps: number, hasBias = true) {
    super(scope);
    this.weight = scope.parameter('weight', [size]);
    this.bias = hasBias ? scope.parameter('bias', [size]) : null;
    this.eps = eps;
  }

  protected forward(x: Tensor): Tensor {
    return functional.layerNorm(x, this.weight, this.bias, this.eps);
  }
}

/** LayerNorm of each head with weights of its own. */
export class HeadLayerNorm extends Module {
  readonly weight: Tensor;
  readonly headDim: number;
  readonly eps: number;

  /** `stored`: one matrix `weight` `[numHeads, headDim]`, or a vector `norms.<head>.weight` for each head. */
  constructor(scope: Scope, numHeads: number, headDim: number, eps: number, stored: 'matrix' | 'vectors') {
    super(scope);
    const parts = Array.from({ length: numHeads }, (_, head): WeightPart => {
      const shared = { rowStart: 0, rowCount: headDim, rowStep: 1, columnCount: 1 };
      if (stored === 'vectors') {
        const name = scope.nameOf(`norms.${head}.weight`);
        return { ...shared, name, tensor: name, tensorShape: [headDim], transpose: false, columnStart: 0 };
      }
      // A row of the matrix, as a vector: a column of its transpose.
      const tensor = scope.nameOf('weight');
      const tensorShape = [numHeads, headDim];
      return {
        ...shared,
        name: `${tensor}[${head}]`,
        tensor,
        tensorShape,
        transpose: true,
        columnStart: head,
      };
    });
    this.weight = scope.parameter('weight', [numHeads * headDim], { parts });
    this.headDim = headDim;
    this.eps = eps;
  }

  protected forward(x: Tensor): Tensor {
    return functional.layerNorm(x, this.weight, null, this.eps, this.headDim);
  }
}

/** Makes the norm of `size` columns whose weights stand at `scope`. */
export type NormLayer = (scope: Scope, size: number) => Module;

export function rmsNorm(eps: number, weightOffset = 0): NormLayer {
  return (scope, size) => new RMSNorm(scope, size, eps, weightOffset);
}

export function layerNorm(eps: number, hasBias = true): NormLayer {
  return (scope, size) => new LayerNorm(scope, size, eps, hasBias);
}
