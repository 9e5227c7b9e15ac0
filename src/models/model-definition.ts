// What a file in models/ exports: the architectures it speaks for and how its config becomes a graph.
import type { Graph } from '../ir/graph.ts';
import type { KVCacheDType } from '../tensor/dtype.ts';
import type { TensorSource } from '../tensor/tensor-source.ts';

/** `config.json` as parsed, any spelling; each model checks the fields it knows and refuses those it does not honour. */
export type HFConfig = { readonly [key: string]: unknown };

export interface BuildOptions {
  /** Type of the KV cache; weights are typed by the recipe, activations by the target. */
  readonly kvDType: KVCacheDType;
  /** The longest context that will be served: RoPE scalings that depend on it (longrope, dynamic) are fixed for it. */
  readonly maxModelLen: number;
}

/** Facts that the engine and the ledger need beside the graph. */
export interface ModelFacts {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  /** The context length that the config allows. */
  readonly maxPositions: number;
  readonly numParameters: number;
}

export interface ModelDefinition {
  /** As in `config.json`; also the file's name. */
  readonly modelType: string;
  /** Values of `architectures` that this definition runs. */
  readonly architectures: readonly string[];
  facts(config: HFConfig): ModelFacts;
  buildGraph(config: HFConfig, options: BuildOptions): Graph;
  /**
   * Names under which a tensor may stand in a published checkpoint, best first. The default is its canonical name
   * (`WeightPart.tensor` as the definition gives it); GPT-2 also accepts it without `transformer.`.
   */
  tensorNames?(tensor: string): readonly string[];
  /** Tensors of published checkpoints that are no weights (causal masks, rotary frequencies) and may be ignored. */
  isBuffer?(tensor: string, config: HFConfig): boolean;
  /** The checkpoint's tensors as the graph means them, where that is more than a matter of names and places. */
  adaptTensors?(source: TensorSource, config: HFConfig): TensorSource;
}
