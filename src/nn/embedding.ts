// Tables of token and position vectors, and the projection back to the vocabulary.
import { embedding, gatherLogitRows, linear } from './functional.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

export class Embedding extends Module {
  readonly weight: Tensor;

  constructor(scope: Scope, numEmbeddings: number, dim: number) {
    super(scope);
    this.weight = scope.parameter('weight', [numEmbeddings, dim]);
  }

  protected forward(ids: Tensor): Tensor {
    return embedding(ids, this.weight);
  }
}

/** Logits of the wanted rows: `[numTokens, hidden]` → `[numLogitRows, vocabSize]`. */
export class LMHead extends Module {
  readonly weight: Tensor;

  /** `tied`: the embedding whose table it shares; null for a table of its own. */
  constructor(scope: Scope, vocabSize: number, hiddenSize: number, tied: Embedding | null) {
    super(scope);
    this.weight = tied?.weight ?? scope.parameter('weight', [vocabSize, hiddenSize]);
  }

  protected forward(x: Tensor): Tensor {
    return linear(gatherLogitRows(x), this.weight);
  }
}
