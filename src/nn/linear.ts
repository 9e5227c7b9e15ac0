// A linear layer, and how checkpoints store its weight.
import type { Parameter } from '../ir/graph.ts';
import type { RowRange } from '../ir/graph-builder.ts';
import { linear } from './functional.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

export interface LinearOptions {
  readonly inputs: number;
  readonly outputs: number;
  readonly bias: boolean;
  /** How tensor parallelism may split it: `rows` splits the outputs, `columns` the inputs. */
  readonly shard?: Parameter['shard'];
  /** The checkpoint stores the weight `[inputs, outputs]`, as GPT-2's Conv1D does. */
  readonly transpose?: boolean;
  /** The layer is these outputs, one range after the other, of a tensor that the checkpoint stores in one with others. */
  readonly fused?: { readonly ranges: readonly RowRange[]; readonly outputs: number };
}

export class Linear extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(scope: Scope, options: LinearOptions) {
    super(scope);
    const { inputs, outputs, transpose = false, shard = 'none' } = options;
    this.weight = ownedParameter(scope, 'weight', [outputs, inputs], options, { transpose, shard });
    // A layer whose inputs are split adds its bias once, after the parts are summed.
    const biasShard = shard === 'rows' ? 'rows' : 'none';
    this.bias = options.bias ? ownedParameter(scope, 'bias', [outputs], options, { shard: biasShard }) : null;
  }

  protected forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias);
  }
}

/** A parameter of its own, or ranges of a fused one's rows, then named `c_attn.weight[0:768]`. */
function ownedParameter(
  scope: Scope,
  name: string,
  shape: readonly number[],
  { fused }: LinearOptions,
  storage: { readonly transpose?: boolean; readonly shard: Parameter['shard'] },
): Tensor {
  if (!fused) return scope.parameter(name, shape, storage);
  const [{ start, count }, ...others] = fused.ranges;
  const range = `[${start}:${start + count}${others.length > 0 ? ',…' : ''}]`;
  const whole = { tensor: scope.nameOf(name), ranges: fused.ranges, numRows: fused.outputs };
  return scope.parameter(name + range, shape, { ...storage, fused: whole });
}
