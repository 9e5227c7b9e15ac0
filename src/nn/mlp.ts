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

/** Names in a checkpoint; `gateUp` is one tensor of the gate's rows and then the up projection's. */
export type GatedMLPNames =
  | { readonly gate: string; readonly up: string; readonly down: string }
  | { readonly gateUp: string; readonly down: string };

export interface GatedMLPOptions extends MLPSizes {
  readonly names?: GatedMLPNames;
}

const HF_NAMES: GatedMLPNames = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };

/** down(act(gate(x)) · up(x)), such as SwiGLU (Shazeer, "GLU variants improve transformer", 2020). */
export class GatedMLP extends Module {
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;
  readonly activation: ActivationKind;

  constructor(scope: Scope, options: GatedMLPOptions) {
    super(scope);
    const { hiddenSize, intermediateSize, bias, names = HF_NAMES } = options;
    const expand = (part: 'gate' | 'up'): Linear => {
      const shape = { inputs: hiddenSize, outputs: intermediateSize, bias, shard: 'rows' } as const;
      if (!('gateUp' in names)) return new Linear(scope.at(names[part]), shape);
      const range = { start: part === 'gate' ? 0 : intermediateSize, count: intermediateSize };
      return new Linear(scope.at(names.gateUp), {
        ...shape,
        fused: { ranges: [range], outputs: 2 * intermediateSize },
      });
    };
    this.gate = expand('gate');
    this.up = expand('up');
    this.down = new Linear(scope.at(names.down), {
      inputs: intermediateSize,
      outputs: hiddenSize,
      bias,
      shard: 'columns',
    });
    this.activation = options.activation;
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
    this.up = new Linear(scope.at(names.up), {
      inputs: hiddenSize,
      outputs: intermediateSize,
      bias,
      transpose,
      shard: 'rows',
    });
    this.down = new Linear(scope.at(names.down), {
      inputs: intermediateSize,
      outputs: hiddenSize,
      bias,
      transpose,
      shard: 'columns',
    });
    this.activation = options.activation;
  }

  protected forward(x: Tensor): Tensor {
    return this.down.apply(activation(this.up.apply(x), this.activation));
  }
}
