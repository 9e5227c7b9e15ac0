// The feed-forward half of a layer, gated or plain.
import type { ActivationKind } from '../ir/ops/activation-kinds.ts';
import { activation, multiply } from './functional.ts';
import { Linear } from './linear.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

interface MLPSizes {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly activation: ActivationKind;
  readonly bias: boolean;
}

/** down(act(gate(x)) · up(x)), such as SwiGLU (Shazeer, "GLU variants improve transformer", 2020). */
export class GatedMLP extends Module {
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;
  readonly activation: ActivationKind;

  constructor(scope: Scope, sizes: MLPSizes) {
    super(scope);
    const { hiddenSize, intermediateSize, bias } = sizes;
    const expand = { inputs: hiddenSize, outputs: intermediateSize, bias, shard: 'rows' } as const;
    this.gate = new Linear(scope.at('gate_proj'), expand);
    this.up = new Linear(scope.at('up_proj'), expand);
    const contract = { inputs: intermediateSize, outputs: hiddenSize, bias, shard: 'columns' } as const;
    this.down = new Linear(scope.at('down_proj'), contract);
    this.activation = sizes.activation;
  }

  protected forward(x: Tensor): Tensor {
    const gate = activation(this.gate.apply(x), this.activation);
    return this.down.apply(multiply(gate, this.up.apply(x)));
  }
}

export interface MLPOptions extends MLPSizes {
  readonly names: { readonly up: string; readonly down: string };
  /** The checkpoint stores the weights transposed. */
  readonly transpose?: boolean;
}

/** down(act(up(x))). */
export class MLP extends Module {
  readonly up: Linear;
  readonly down: Linear;
  readonly activation: ActivationKind;

  constructor(scope: Scope, options: MLPOptions) {
    super(scope);
    const { hiddenSize, intermediateSize, bias, names, transpose = false } = options;
    const expand = { inputs: hiddenSize, outputs: intermediateSize, bias, transpose, shard: 'rows' } as const;
    this.up = new Linear(scope.at(names.up), expand);
    const contract = {
      inputs: intermediateSize,
      outputs: hiddenSize,
      bias,
      transpose,
      shard: 'columns',
    } as const;
    this.down = new Linear(scope.at(names.down), contract);
    this.activation = options.activation;
  }

  protected forward(x: Tensor): Tensor {
    return this.down.apply(activation(this.up.apply(x), this.activation));
  }
}
