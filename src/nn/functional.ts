// The vocabulary that modules and models are written in: one function per primitive op, and attention over the cache.
import type { ActivationKind } from '../ir/ops/activation-kinds.ts';
import type { RopeParameters } from '../ir/ops/rope.ts';
import type { Routing } from '../ir/ops/route-experts.ts';
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

/** Every element moved into [min, max]; null: there is no such end. */
export function clamp(x: Tensor, min: number | null, max: number | null): Tensor {
  return x.tracer.apply('clamp', [x], { min, max })[0];
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

/** The arrays of the step that attention reads beside its operands. */
function attentionInputs({ tracer }: Tensor, group: number): readonly Tensor[] {
  return [tracer.input('blockTables', group), tracer.input('cuSeqlensQ'), tracer.input('contextLens')];
}

/**
 * Causal attention of each sequence over its cached tokens, this step's keys and values first written there.
 * `[numTokens, numHeads · headDim]`, twice `[numTokens, numKvHeads · headDim]` → `[numTokens, numHeads · headDim]`.
 * `sinks` `[numHeads]`: a further logit of each head's softmax, which no value answers.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  spec: AttentionSpec,
  sinks: Tensor | null = null,
): Tensor {
  const { tracer } = q;
  const { layer, numKvHeads, headDim, window } = spec;
  const dims = { keyHeadDim: headDim, valueHeadDim: headDim };
  const group = tracer.graph.kvCache({ layer, numKvHeads, ...dims, window, dtype: tracer.kvDType });
  const [token] = tracer.apply('kvWrite', [k, v, tracer.input('slotMapping', group)], { layer });
  const inputs = [q, token, ...attentionInputs(q, group), ...(sinks ? [sinks] : [])];
  return tracer.apply('attention', inputs, { ...spec, valueHeadDim: headDim })[0];
}

export interface LatentAttentionSpec {
  readonly layer: number;
  readonly numHeads: number;
  /** Columns of the rotary key, and of each head's query for it. */
  readonly ropeDim: number;
  /** Columns of the latent. */
  readonly latentDim: number;
  readonly scale: number;
}

/**
 * Attention over a cache of one rotary key and one latent per token, this step's first written there. A latent is key
 * and value of every head: `q` `[numTokens, numHeads · ropeDim]` meets `k` `[numTokens, ropeDim]`, `latentQ`
 * `[numTokens, numHeads · latentDim]` meets `latent` `[numTokens, latentDim]`; the result is shaped like `latentQ`.
 */
export function latentAttention(
  q: Tensor,
  latentQ: Tensor,
  k: Tensor,
  latent: Tensor,
  { layer, numHeads, ropeDim, latentDim, scale }: LatentAttentionSpec,
): Tensor {
  const { tracer } = q;
  const dims = { numKvHeads: 1, keyHeadDim: ropeDim, valueHeadDim: latentDim };
  const group = tracer.graph.kvCache({ layer, ...dims, window: null, dtype: tracer.kvDType });
  const [token] = tracer.apply('kvWrite', [k, latent, tracer.input('slotMapping', group)], { layer });
  const attributes = { layer, numHeads, numKvHeads: 1, headDim: ropeDim, valueHeadDim: latentDim, scale };
  return tracer.apply('latentAttention', [q, token, ...attentionInputs(q, group), latentQ], attributes)[0];
}

/** The experts of each token and their weights, both `[numTokens, numExpertsPerToken]`, from logits `[numTokens, numExperts]`. */
export function routeExperts(
  logits: Tensor,
  correction: Tensor | null,
  routing: Routing,
): { readonly weights: Tensor; readonly ids: Tensor } {
  const inputs = correction ? [logits, correction] : [logits];
  const [weights, ids] = logits.tracer.apply('routeExperts', inputs, routing);
  return { weights, ids };
}

/**
 * Linears whose weights are stacked in `weight` `[numMatrices · outputs, inputs]`. Each token goes through those that its
 * `ids` `[numTokens, matricesPerToken]` name, or through all in turn: `x` `[numTokens, inputs]`, or with columns for each
 * of them, → `[numTokens, matricesPerToken · outputs]`.
 */
export function groupedLinear(
  x: Tensor,
  weight: Tensor,
  numMatrices: number,
  ids: Tensor | null = null,
  bias: Tensor | null = null,
): Tensor {
  const inputs = [x, weight, ...(ids ? [ids] : []), ...(bias ? [bias] : [])];
  const matricesPerToken = ids ? (ids.shape[1] as number) : numMatrices;
  return x.tracer.apply('groupedLinear', inputs, { numMatrices, matricesPerToken })[0];
}

/** Σ of a token's experts by weight: `[numTokens, experts · columns]`, `[numTokens, experts]` → `[numTokens, columns]`. */
export function combineExperts(x: Tensor, weights: Tensor): Tensor {
  return x.tracer.apply('combineExperts', [x, weights])[0];
}
