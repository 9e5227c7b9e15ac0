// The graph: what a model computes, as ops on values with symbolic shapes. Passes take one and return another.
import type { CodeDType, FloatDType, KVCacheDType } from '../tensor/dtype.ts';
import type { Shape } from '../tensor/shape.ts';
import type { WeightFormat } from '../tensor/weight-format.ts';

/** `token` orders effects (a KV-cache write before the attention that reads it) and holds no data. */
export type ValueDType = FloatDType | CodeDType | 'int32' | 'token';

export interface ValueType {
  readonly dtype: ValueDType;
  readonly shape: Shape;
}

/** An edge of the graph. Ids are unique within a graph; names are for people and error messages. */
export interface Value {
  readonly id: number;
  readonly name: string;
  readonly type: ValueType;
}

/** Attributes of a node: plain JSON, so that graphs and plans can be printed, compared and stored. */
export type AttributeValue =
  string | number | boolean | null | readonly AttributeValue[] | { readonly [key: string]: AttributeValue };
export type Attributes = { readonly [key: string]: AttributeValue };

export interface Node {
  readonly op: string;
  /** Where the node stands in the model, such as `model.layers.0.self_attn`; what debugging and the plan show. */
  readonly label: string;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly attributes: Attributes;
}

/** The arrays of a step that a graph may read. See `device/step.ts` for their meaning. */
export type StepInputName =
  | 'tokenIds' // [numTokens]
  | 'positions' // [numTokens]
  | 'slotMapping' // [numTokens]
  | 'blockTables' // [numSeqs, maxBlocksPerSeq]; the second dimension is known to the step alone
  | 'cuSeqlensQ' // [numSeqs + 1]
  | 'contextLens' // [numSeqs]
  | 'logitRows'; // [numLogitRows]

export interface GraphInput {
  readonly name: StepInputName;
  /** Which cache group's block table or slot mapping; 0 for the others. */
  readonly group: number;
  readonly value: Value;
}

/**
 * How a part of a weight comes from one tensor of the checkpoint. A weight `[rows, columns]` is the parts' rows
 * stacked; `transpose` says that the checkpoint stores `[columns, rows]` (GPT-2's Conv1D).
 */
export interface WeightPart {
  /** The base name that survives merging, such as `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  /** The tensor's canonical name; the bind pass replaces it by the one that the checkpoint at hand uses. */
  readonly tensor: string;
  /** The tensor's whole shape in the checkpoint, as stored; with more than two dimensions the last are its columns. */
  readonly tensorShape: readonly number[];
  readonly transpose: boolean;
  /** Rows of the (transposed) tensor that this part takes: all of them unless fused or sharded. */
  readonly rowStart: number;
  readonly rowCount: number;
  /** From one row taken to the next: 1 unless the tensor interleaves several weights' rows. */
  readonly rowStep: number;
  /** Columns likewise. Vectors have one column block of size 1 and `rowCount` rows. */
  readonly columnStart: number;
  readonly columnCount: number;
}

/** A parameter that is a part of a quantized weight. */
export interface ParameterQuantization {
  readonly format: WeightFormat;
  /**
   * Codes `[rows, columns]`; their scales `[rows, scaleColumns(format, columns)]`; or of the activations that they are
   * multiplied by the static scales, a vector, or which of their columns each column of codes meets, `[columns]`.
   */
  readonly holds: 'codes' | 'scales' | 'inputScales' | 'inputOrder';
  /**
   * `quantize`: the parts cut `[rows, columns]` floats out of the checkpoint, and loading makes codes or scales of them.
   * `checkpoint`: the parts name tensors of codes, or of scales, that the checkpoint has.
   */
  readonly origin: 'quantize' | 'checkpoint';
}

/**
 * A weight of the model. The definition gives it one part, under the tensor's canonical name; the bind pass settles
 * which published name it has, the merge pass stacks parts.
 */
export interface Parameter {
  readonly name: string;
  readonly value: Value;
  readonly parts: readonly WeightPart[];
  /** How tensor parallelism may split it; an annotation that the shard pass reads. */
  readonly shard: 'none' | 'rows' | 'columns';
  /** Absent from parameters of floats. */
  readonly quantization?: ParameterQuantization;
  /** The type of floats, whatever the recipe says. */
  readonly storedAs?: FloatDType;
}

/** One layer's cache of keys and values. Layers with equal geometry and window share a group and its block table. */
export interface KVCacheSpec {
  readonly layer: number;
  readonly numKvHeads: number;
  readonly keyHeadDim: number;
  readonly valueHeadDim: number;
  /** Tokens a query may look back at, itself included; null for all of them. */
  readonly window: number | null;
  /**
   * `float8_e4m3fn` holds the values themselves, saturated. `int8` has for each token and head a float16 scale of its
   * keys and one of its values: scale = absmax / 127, code = round(x / scale).
   */
  readonly dtype: KVCacheDType;
}

export interface Graph {
  readonly name: string;
  readonly inputs: readonly GraphInput[];
  readonly parameters: readonly Parameter[];
  readonly kvCaches: readonly KVCacheSpec[];
  /** In execution order. */
  readonly nodes: readonly Node[];
  /** `logits` [numLogitRows, vocabSize]; further named outputs are for debugging. */
  readonly outputs: readonly { readonly name: string; readonly value: Value }[];
}
