// Multi-head attention with its projections; queries may share the heads of keys and values (GQA, MQA).
import type { RowRange } from '../ir/graph-builder.ts';
import type { RopeParameters } from '../ir/ops/rope.ts';
import { attention, clamp, rope } from './functional.ts';
import { Linear } from './linear.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

/** Names of the projections in a checkpoint; `qkv` is one tensor of queries, keys and values. */
export type AttentionNames =
  | { readonly q: string; readonly k: string; readonly v: string; readonly output: string }
  | {
      readonly qkv: string;
      readonly output: string;
      /**
       * `stacked` (the default): all queries, then all keys, then all values. `grouped`: for each head of keys and
       * values its queries, its key and its value.
       */
      readonly order?: 'stacked' | 'grouped';
    };

interface HeadCounts {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

export interface AttentionOptions extends HeadCounts {
  readonly layer: number;
  readonly hiddenSize: number;
  readonly names: AttentionNames;
  /** Of queries, keys and values. */
  readonly bias: boolean;
  /** Default: as `bias`. */
  readonly outputBias?: boolean;
  /** Multiplies the scores; default 1/√headDim. */
  readonly scale?: number;
  /** Tokens a query looks back at, itself included; null: all. */
  readonly window?: number | null;
  readonly softcap?: number | null;
  readonly alibiSlopes?: readonly number[] | null;
  readonly rope?: RopeParameters | null;
  /** Queries, keys and values are kept within ±clip. */
  readonly clip?: number | null;
  /** Each head has a learned logit that takes part in its softmax, `sinks` `[numHeads]`. */
  readonly hasSinks?: boolean;
  /** What queries and keys go through before they turn. */
  readonly queryNorm?: Module | null;
  readonly keyNorm?: Module | null;
  /** The checkpoint stores the projections transposed. */
  readonly transpose?: boolean;
}

export class Attention extends Module {
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly output: Linear;
  readonly sinks: Tensor | null;
  readonly #options: AttentionOptions;

  constructor(scope: Scope, options: AttentionOptions) {
    super(scope);
    const { hiddenSize, numHeads, numKvHeads, headDim, bias, names, transpose = false } = options;
    const project = (part: 'q' | 'k' | 'v', heads: number): Linear => {
      const shape = { inputs: hiddenSize, outputs: heads * headDim, bias, transpose, shard: 'rows' } as const;
      if (!('qkv' in names)) return new Linear(scope.at(names[part]), shape);
      const fused = {
        ranges: rangesOf(part, names.order, options),
        outputs: (numHeads + 2 * numKvHeads) * headDim,
      };
      return new Linear(scope.at(names.qkv), { ...shape, fused });
    };
    this.q = project('q', numHeads);
    this.k = project('k', numKvHeads);
    this.v = project('v', numKvHeads);
    this.output = new Linear(scope.at(names.output), {
      inputs: numHeads * headDim,
      outputs: hiddenSize,
      bias: options.outputBias ?? bias,
      transpose,
      shard: 'columns',
    });
    this.sinks = options.hasSinks ? scope.parameter('sinks', [numHeads]) : null;
    this.#options = options;
  }

  protected forward(x: Tensor): Tensor {
    const { queryNorm = null, keyNorm = null } = this.#options;
    const q = this.#rotated(this.#normed(this.#clipped(this.q.apply(x)), queryNorm));
    const k = this.#rotated(this.#normed(this.#clipped(this.k.apply(x)), keyNorm));
    const v = this.#clipped(this.v.apply(x));
    return this.output.apply(this.#attend(q, k, v));
  }

  #attend(q: Tensor, k: Tensor, v: Tensor): Tensor {
    const { layer, numHeads, numKvHeads, headDim } = this.#options;
    const {
      scale = 1 / Math.sqrt(headDim),
      window = null,
      softcap = null,
      alibiSlopes = null,
    } = this.#options;
    const spec = { layer, numHeads, numKvHeads, headDim, scale, window, softcap, alibiSlopes };
    return attention(q, k, v, spec, this.sinks);
  }

  #clipped(x: Tensor): Tensor {
    const { clip = null } = this.#options;
    return clip === null ? x : clamp(x, -clip, clip);
  }

  #normed(x: Tensor, norm: Module | null): Tensor {
    return norm === null ? x : norm.apply(x);
  }

  #rotated(x: Tensor): Tensor {
    return this.#options.rope ? rope(x, this.#options.headDim, this.#options.rope) : x;
  }
}

/** Rows of a fused tensor that hold the queries, keys or values. */
function rangesOf(
  part: 'q' | 'k' | 'v',
  order: 'stacked' | 'grouped' = 'stacked',
  { numHeads, numKvHeads, headDim }: HeadCounts,
): readonly RowRange[] {
  const numGroups = order === 'grouped' ? numKvHeads : 1;
  const [qSize, kvSize] = [(numHeads / numGroups) * headDim, (numKvHeads / numGroups) * headDim];
  const start = { q: 0, k: qSize, v: qSize + kvSize }[part];
  const count = part === 'q' ? qSize : kvSize;
  return Array.from({ length: numGroups }, (_, group) => ({
    start: group * (qSize + 2 * kvSize) + start,
    count,
  }));
}
