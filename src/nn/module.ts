// The base of layers: parameters named by the scope, computation labelled with it.
import type { Scope, Tensor } from './tensor.ts';

export abstract class Module {
  readonly scope: Scope;

  constructor(scope: Scope) {
    this.scope = scope;
  }

  /** Compute under the module's own label; what others call. */
  apply(x: Tensor): Tensor {
    return this.scope.tracer.labelled(this.scope.path, () => this.forward(x));
  }

  /** What the module computes. */
  protected abstract forward(x: Tensor): Tensor;
}
