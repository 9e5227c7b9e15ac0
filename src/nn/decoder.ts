// The frame of every decoder: token table, layers, last norm, projection to the vocabulary.
import { Embedding, LMHead } from './embedding.ts';
import type { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

export interface DecoderOptions {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  /** Paths in the checkpoint; layer i stands at `<layers>.<i>`. */
  readonly names: DecoderNames;
  /** Columns of the tables where they differ from the hidden size. */
  readonly embeddingSize?: number;
  /** The head shares the token table. */
  readonly tied: boolean;
  readonly headBias?: boolean;
  readonly layer: (scope: Scope, layer: number) => Module;
  /** The last norm, at its path; null: there is none. */
  readonly norm: ((scope: Scope) => Module) | null;
  /** What happens to token vectors before the first layer: `[numTokens, embeddingSize]` → `[numTokens, hidden]`. */
  readonly embed?: (x: Tensor) => Tensor;
  /** What happens to the stream after the last norm, before the head. */
  readonly project?: (x: Tensor) => Tensor;
  /** What happens to the logits `[numLogitRows, vocabSize]`. */
  readonly adjustLogits?: (logits: Tensor) => Tensor;
}

export interface DecoderNames {
  readonly embedding: string;
  readonly layers: string;
  readonly norm: string;
  readonly head: string;
}

const unchanged = (x: Tensor): Tensor => x;

/** Logits of the wanted rows, `[numLogitRows, vocabSize]`. */
export function decoderLogits(scope: Scope, options: DecoderOptions): Tensor {
  const {
    vocabSize,
    hiddenSize,
    embeddingSize = hiddenSize,
    numLayers,
    names,
    tied,
    headBias = false,
  } = options;
  const { embed = unchanged, project = unchanged, adjustLogits = unchanged } = options;
  const { tracer } = scope;
  const embedding = new Embedding(scope.at(names.embedding), vocabSize, embeddingSize);
  let x = tracer.labelled(parentOf(names.embedding), () => embed(embedding.apply(tracer.input('tokenIds'))));
  for (let layer = 0; layer < numLayers; layer++) {
    x = options.layer(scope.at(`${names.layers}.${layer}`), layer).apply(x);
  }
  if (options.norm !== null) x = options.norm(scope.at(names.norm)).apply(x);
  const head = new LMHead(scope.at(names.head), {
    vocabSize,
    inputs: embeddingSize,
    tied: tied ? embedding : null,
    bias: headBias,
  });
  return tracer.labelled(names.head, () => adjustLogits(head.apply(project(x))));
}

function parentOf(path: string): string {
  return path.split('.').slice(0, -1).join('.');
}
