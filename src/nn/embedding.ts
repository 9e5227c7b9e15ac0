// Tables of token and position vectors, and the projection back to the vocabulary.
import { embedding, gatherLogitRows, linear } from './functional.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

export class Embedding extends Module {
  readonly weight: Tensor;

  /** `offset`: rows of the stored table that stand before the first one used, as OPT's positions have them. */
  constructor(scope: Scope, numEmbeddings: number, dim: number, offset = 0) {
    super(scope);
    const range = { start: offset, count: numEmbeddings };
    const fused = { tensor: scope.nameOf('weight'), ranges: [range], numRows: offset + numEmbeddings };
    this.weight = scope.parameter('weight', [numEmbeddings, dim], offset === 0 ? {} : { fused });
  }

  protected forward(ids: Tensor): Tensor {
    return embedding(ids, this.weight);
  }
}

export interface LMHeadOptions {
  readonly vocabSize: number;
  readonly inputs: number;
  /** The embedding whose table it shares; null for a table of its own. */
  readonly tied: Embedding | null;
  readonly bias: boolean;
}

/** Logits of the wanted rows: `[numTokens, inputs]` → `[numLogitRows, vocabSize]`. */
export class LMHead extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(scope: Scope, { vocabSize, inputs, tied, bias }: LMHeadOptions) {
    super(scope);
    this.weight = tied?.weight ?? scope.parameter('weight', [vocabSize, inputs]);
    this.bias = bias ? scope.parameter('bias', [vocabSize]) : null;
  }

  protected forward(x: Tensor): Tensor {
    return linear(gatherLogitRows(x), this.weight, this.bias);
  }
}
