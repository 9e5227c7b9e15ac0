// Normalisation layers.
import { layerNorm, rmsNorm } from './functional.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

export class RMSNorm extends Module {
  readonly weight: Tensor;
  readonly eps: number;

  constructor(scope: Scope, size: number, eps: number) {
    super(scope);
    this.weight = scope.parameter('weight', [size]);
    this.eps = eps;
  }

  protected forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }
}

export class LayerNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly eps: number;

  constructor(scope: Scope, size: number, eps: number) {
    super(scope);
    this.weight = scope.parameter('weight', [size]);
    this.bias = scope.parameter('bias', [size]);
    this.eps = eps;
  }

  protected forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.eps);
  }
}
