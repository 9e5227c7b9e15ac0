// Multi-head attention with its projections; queries may share the heads of keys and values (GQA).
import type { RopeParameters } from '../ir/ops/rope.ts';
import { attention, rope, type AttentionSpec } from './functional.ts';
import { Linear } from './linear.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

/** Names of the projections in a checkpoint; `qkv` is one tensor of queries, keys and values stacked. */
export type AttentionNames =
  | { readonly q: string; readonly k: string; readonly v: string; readonly output: string }
  | { readonly qkv: string; readonly output: string };

export interface AttentionOptions extends Omit<AttentionSpec, 'scale'> {
  readonly hiddenSize: number;
  /** Default 1/√headDim. */
  readonly scale?: number;
  readonly rope: RopeParameters | null;
  readonly bias: boolean;
  readonly names: AttentionNames;
  /** The checkpoint stores the projections transposed. */
  readonly transpose?: boolean;
}

export class Attention extends Module {
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly output: Linear;
  readonly #options: AttentionOptions;

  constructor(scope: Scope, options: AttentionOptions) {
    super(scope);
    const { hiddenSize, numHeads, numKvHeads, headDim, bias, names, transpose = false } = options;
    const [qSize, kvSize] = [numHeads * headDim, numKvHeads * headDim];
    const project = (name: string, start: number, outputs: number): Linear => {
      const shared = { inputs: hiddenSize, outputs, bias, transpose, shard: 'rows' } as const;
      if (!('qkv' in names)) return new Linear(scope.at(name), shared);
      return new Linear(scope.at(names.qkv), { ...shared, fused: { start, outputs: qSize + 2 * kvSize } });
    };
    const { q, k, v } = 'qkv' in names ? { q: names.qkv, k: names.qkv, v: names.qkv } : names;
    this.q = project(q, 0, qSize);
    this.k = project(k, qSize, kvSize);
    this.v = project(v, qSize + kvSize, kvSize);
    const outputOptions = { inputs: qSize, outputs: hiddenSize, bias, transpose, shard: 'columns' } as const;
    this.output = new Linear(scope.at(names.output), outputOptions);
    this.#options = options;
  }

  protected forward(x: Tensor): Tensor {
    const { layer, numHeads, numKvHeads, headDim, window, scale = 1 / Math.sqrt(headDim) } = this.#options;
    const spec = { layer, numHeads, numKvHeads, headDim, window, scale };
    const q = this.#rotated(this.q.apply(x));
    const k = this.#rotated(this.k.apply(x));
    return this.output.apply(attention(q, k, this.v.apply(x), spec));
  }

  #rotated(x: Tensor): Tensor {
    return this.#options.rope ? rope(x, this.#options.headDim, this.#options.rope) : x;
  }
}
