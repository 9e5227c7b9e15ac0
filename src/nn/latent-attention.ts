// Multi-head latent attention: queries go down to the latents that the cache holds, instead of keys and values up.
import type { WeightPart } from '../ir/graph.ts';
import type { RopeParameters } from '../ir/ops/rope.ts';
import { groupedLinear, latentAttention, rope } from './functional.ts';
import { Linear } from './linear.ts';
import { Module } from './module.ts';
import { RMSNorm } from './norm.ts';
import type { Scope, Tensor } from './tensor.ts';

export interface LatentAttentionOptions {
  readonly layer: number;
  readonly hiddenSize: number;
  readonly numHeads: number;
  /** Columns that queries are compressed to; null: they are not. */
  readonly queryRank: number | null;
  /** Columns of the latent. */
  readonly latentDim: number;
  /** Columns of a head's query that meet the latent, and that meet the rotary key. */
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly valueDim: number;
  readonly scale: number;
  readonly rope: RopeParameters;
  readonly bias: boolean;
  readonly eps: number;
}

/**
 * A head's key and value are linear in a token's latent c: Kc and Vc. Since q · (K c) = (Kᵀ q) · c, and a weighted sum of
 * V c is V times that of c, K joins the query and V the output: the cache holds c alone, beside one rotary key for all
 * heads (DeepSeek-AI, "DeepSeek-V2", 2024).
 */
export class LatentAttention extends Module {
  readonly queryDown: Linear | null;
  readonly queryNorm: RMSNorm | null;
  readonly latentQuery: Linear;
  readonly ropeQuery: Linear;
  readonly latent: Linear;
  readonly latentNorm: RMSNorm;
  readonly ropeKey: Linear;
  /** Kᵀ of each head, `[numHeads · latentDim, nopeDim]`. */
  readonly keys: Tensor;
  /** V of each head, `[numHeads · valueDim, latentDim]`. */
  readonly values: Tensor;
  readonly output: Linear;
  readonly #options: LatentAttentionOptions;

  constructor(scope: Scope, options: LatentAttentionOptions) {
    super(scope);
    const { hiddenSize, numHeads, queryRank, latentDim, ropeDim, valueDim, bias, eps } = options;
    const isCompressed = queryRank !== null;
    this.queryDown = isCompressed
      ? new Linear(scope.at('q_a_proj'), { inputs: hiddenSize, outputs: queryRank, bias })
      : null;
    this.queryNorm = isCompressed ? new RMSNorm(scope.at('q_a_layernorm'), queryRank, eps) : null;
    this.latentQuery = queryLinear(scope, options, 'latent');
    this.ropeQuery = queryLinear(scope, options, 'rope');
    const down = (start: number, outputs: number): Linear => {
      const fused = { ranges: [{ start, count: outputs }], outputs: latentDim + ropeDim };
      return new Linear(scope.at('kv_a_proj_with_mqa'), { inputs: hiddenSize, outputs, bias, fused });
    };
    this.latent = down(0, latentDim);
    this.latentNorm = new RMSNorm(scope.at('kv_a_layernorm'), latentDim, eps);
    this.ropeKey = down(latentDim, ropeDim);
    this.keys = keyWeight(scope, options);
    this.values = valueWeight(scope, options);
    const outputShape = { inputs: numHeads * valueDim, outputs: hiddenSize, bias };
    this.output = new Linear(scope.at('o_proj'), outputShape);
    this.#options = options;
  }

  protected forward(x: Tensor): Tensor {
    const { numHeads, ropeDim, rope: angles } = this.#options;
    const query = this.queryDown && this.queryNorm ? this.queryNorm.apply(this.queryDown.apply(x)) : x;
    const latentQ = groupedLinear(this.latentQuery.apply(query), this.keys, numHeads);
    const q = rope(this.ropeQuery.apply(query), ropeDim, angles);
    const k = rope(this.ropeKey.apply(x), ropeDim, angles);
    const latent = this.latentNorm.apply(this.latent.apply(x));
    const attended = latentAttention(q, latentQ, k, latent, this.#options);
    return this.output.apply(groupedLinear(attended, this.values, numHeads));
  }
}

/** Each head's columns of one kind; the checkpoint has both kinds of a head side by side. */
function queryLinear(scope: Scope, options: LatentAttentionOptions, kind: 'latent' | 'rope'): Linear {
  const { hiddenSize, numHeads, queryRank, nopeDim, ropeDim } = options;
  const [start, count] = kind === 'latent' ? [0, nopeDim] : [nopeDim, ropeDim];
  const size = nopeDim + ropeDim;
  const ranges = Array.from({ length: numHeads }, (_, head) => ({ start: head * size + start, count }));
  return new Linear(scope.at(queryRank === null ? 'q_proj' : 'q_b_proj'), {
    inputs: queryRank ?? hiddenSize,
    outputs: numHeads * count,
    bias: false,
    fused: { ranges, outputs: numHeads * size },
  });
}

/** The published tensor has, for each head, K `[nopeDim, latentDim]` and then V `[valueDim, latentDim]`. */
const UP_PROJECTION = 'kv_b_proj.weight';

function keyWeight(scope: Scope, { numHeads, latentDim, nopeDim, valueDim }: LatentAttentionOptions): Tensor {
  const size = nopeDim + valueDim;
  const tensor = scope.nameOf(UP_PROJECTION);
  const parts = Array.from({ length: numHeads }, (_, head): WeightPart => {
    const rows = { rowStart: 0, rowCount: latentDim, rowStep: 1 };
    const columns = { columnStart: head * size, columnCount: nopeDim };
    const tensorShape = [numHeads * size, latentDim];
    return { name: `${tensor}[K ${head}]`, tensor, tensorShape, transpose: true, ...rows, ...columns };
  });
  return scope.parameter(`${UP_PROJECTION}[K]`, [numHeads * latentDim, nopeDim], { parts });
}

function valueWeight(
  scope: Scope,
  { numHeads, latentDim, nopeDim, valueDim }: LatentAttentionOptions,
): Tensor {
  const size = nopeDim + valueDim;
  const ranges = Array.from({ length: numHeads }, (_, head) => ({
    start: head * size + nopeDim,
    count: valueDim,
  }));
  const fused = { tensor: scope.nameOf(UP_PROJECTION), ranges, numRows: numHeads * size };
  return scope.parameter(`${UP_PROJECTION}[V]`, [numHeads * valueDim, latentDim], { fused });
}
