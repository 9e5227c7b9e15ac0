// The vocabulary that modules and models are written in: one function per primitive op, and attention over the cache.
import type { ActivationKind } from '../ir/ops/activation-kinds.ts';
import type { RopeParameters } from '../ir/ops/rope.ts';
import type { Tensor } from './tensor.ts';

/** Rows of `table` `[numEmbeddings, dim]` for `ids` `[numTokens]`: `[numTokens, dim]`. */
export function embedding(ids: Tensor, table: Tensor): Tensor {
  return ids.tracer.apply('embedding', [ids, table])[0];
}

/** x · weightᵀ + bias: `[rows, inputs]`, `[outputs, inputs]`, `[outputs]` → `[rows, outputs]`. */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  return x.tracer.apply('linear', bias ? [x, weight, bias] : [x, weight])[0];
}

/** Each group of `weight`'s size divided by its root mean square, times weight + `weightOffset`. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, weightOffset = 0): Tensor {
  const groupSize = weight.shape[0] as number;
  return x.tracer.apply('rmsNorm', [x, weight], { eps, groupSize, weightOffset })[0];
}

/**
 * Each group of `groupSize` columns shifted to mean 0, divided by its deviation, times weight, plus bias. These have
 * `groupSize` elements (the default: as many as the weight has), or one for every column.
 */
export function layerNorm(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  eps: number,
  groupSize = weight.shape[0] as number,
): Tensor {
  return x.tracer.apply('layerNorm', bias ? [x, weight, bias] : [x, weight], { eps, groupSize })[0];
}

export function add(a: Tensor, b: Tensor): Tensor {
  return a.tracer.apply('add', [a, b])[0];
}

export function multiply(a: Tensor, b: Tensor): Tensor {
  return a.tracer.apply('multiply', [a, b])[0];
}

export function scale(x: Tensor, factor: number): Tensor {
  return x.tracer.apply('scale', [x], { factor })[0];
}

/** cap · tanh(x / cap). */
export function softcap(x: Tensor, cap: number): Tensor {
  return x.tracer.apply('softcap', [x], { cap })[0];
}

/** Every element moved into [−limit, limit]. */
export function clamp(x: Tensor, limit: number): Tensor {
  return x.tracer.apply('clamp', [x], { min: -limit, max: limit })[0];
}

export function activation(x: Tensor, kind: ActivationKind): Tensor {
  return x.tracer.apply('activation', [x], { kind })[0];
}

/** The rows of `x` whose logits are wanted: `[numTokens, hidden]` → `[numLogitRows, hidden]`. */
export function gatherLogitRows(x: Tensor): Tensor {
  return x.tracer.apply('gatherRows', [x, x.tracer.input('logitRows')])[0];
}

/** Every head of `x` `[numTokens, heads · headDim]` turned by its token's position. */
export function rope(x: Tensor, headDim: number, parameters: RopeParameters): Tensor {
  return x.tracer.apply('rope', [x, x.tracer.input('positions')], { headDim, rope: parameters })[0];
}

export interface AttentionSpec {
  readonly layer: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Usually 1/√headDim. */
  readonly scale: number;
  /** Tokens a query looks back at, itself included; null: all. */
  readonly window: number | null;
  /** Scores become cap · tanh(score / cap); null: they stay. */
  readonly softcap: number | null;
  /** `[numHeads]`: a score falls by its head's slope times the distance; null: it does not. */
  readonly alibiSlopes: readonly number[] | null;
}

/**
 * Causal attention of each sequence over its cached tokens, this step's keys and values first written there.
 * `[numTokens, numHeads · headDim]`, twice `[numTokens, numKvHeads · headDim]` → `[numTokens, numHeads · headDim]`.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec): Tensor {
  const { tracer } = q;
  const { layer, numKvHeads, headDim, window } = spec;
  const dims = { keyHeadDim: headDim, valueHeadDim: headDim };
  const group = tracer.graph.kvCache({ layer, numKvHeads, ...dims, window, dtype: tracer.kvDType });
  const [token] = tracer.apply('kvWrite', [k, v, tracer.input('slotMapping', group)], { layer });
  const step = [tracer.input('blockTables', group), tracer.input('cuSeqlensQ'), tracer.input('contextLens')];
  return tracer.apply('attention', [q, token, ...step], { ...spec, valueHeadDim: headDim })[0];
}
