// How a decoder's layer joins attention and feed-forward to the residual stream.
import { add, scale } from './functional.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

/** A branch off the residual stream: outputNorm(body(norm(x))) · multiplier; a norm that is null is not there. */
export interface Branch {
  readonly norm: Module | null;
  readonly body: Module;
  readonly outputNorm?: Module | null;
  readonly multiplier?: number;
}

/** Attention, then feed-forward, each added to the stream: x + attention(x), then x + mlp(x). */
export class SequentialBlock extends Module {
  readonly attention: Branch;
  readonly mlp: Branch;

  constructor(scope: Scope, parts: { readonly attention: Branch; readonly mlp: Branch }) {
    super(scope);
    this.attention = parts.attention;
    this.mlp = parts.mlp;
  }

  protected forward(x: Tensor): Tensor {
    const attended = add(x, follow(x, this.attention));
    return add(attended, follow(attended, this.mlp));
  }
}

function follow(x: Tensor, { norm, body, outputNorm = null, multiplier = 1 }: Branch): Tensor {
  const y = body.apply(norm === null ? x : norm.apply(x));
  const normed = outputNorm === null ? y : outputNorm.apply(y);
  return multiplier === 1 ? normed : scale(normed, multiplier);
}

export interface ParallelParts {
  readonly norm: Module;
  readonly attention: Module;
  readonly mlp: Module;
  /** The feed-forward's own norm; null: it reads what attention reads. */
  readonly mlpNorm?: Module | null;
}

/** Attention and feed-forward beside each other: x + (attention(norm(x)) + mlp(norm(x))). */
export class ParallelBlock extends Module {
  readonly parts: ParallelParts;

  constructor(scope: Scope, parts: ParallelParts) {
    super(scope);
    this.parts = parts;
  }

  protected forward(x: Tensor): Tensor {
    const { norm, attention, mlp, mlpNorm = null } = this.parts;
    const normed = norm.apply(x);
    const mlpInput = mlpNorm === null ? normed : mlpNorm.apply(x);
    return add(x, add(attention.apply(normed), mlp.apply(mlpInput)));
  }
}

export interface PostNormParts {
  readonly attention: Module;
  readonly attentionNorm: Module;
  readonly mlp: Module;
  readonly mlpNorm: Module;
}

/** The stream itself is normed after each branch has joined it, as in the first transformers. */
export class PostNormBlock extends Module {
  readonly parts: PostNormParts;

  constructor(scope: Scope, parts: PostNormParts) {
    super(scope);
    this.parts = parts;
  }

  protected forward(x: Tensor): Tensor {
    const { attention, attentionNorm, mlp, mlpNorm } = this.parts;
    const attended = attentionNorm.apply(add(x, attention.apply(x)));
    return mlpNorm.apply(add(attended, mlp.apply(attended)));
  }
}
