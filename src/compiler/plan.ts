// The plan: a compiled model for one target and one rank, as a printable, serialisable list of kernel launches.
import type {
  Attributes,
  KVCacheSpec,
  ParameterQuantization,
  StepInputName,
  WeightPart,
} from '../ir/graph.ts';
import type { KernelVariant, WeightLayout } from '../kernels/kernel.ts';
import type { DType, FloatDType } from '../tensor/dtype.ts';
import type { Shape } from '../tensor/shape.ts';

/** Raised whenever a plan written by another version could be misread. */
export const PLAN_FORMAT_VERSION = 4;

/** What the compiler knows of the machine it compiles for. Plain data: compiling needs no device at hand. */
export interface Target {
  readonly kind: 'cpu' | 'reference' | 'cuda';
  /** `x86-64-v3`, `avx512`, `avx512-vnni`, `avx512-bf16`, `neon`; on CUDA the compute capability, `sm_90`. */
  readonly arch: string;
}

export interface PlanHeader {
  readonly formatVersion: typeof PLAN_FORMAT_VERSION;
  /** needletail's own version; shown, not compared. */
  readonly writtenBy: string;
  readonly target: Target;
  /** Names the numbers, as `recipeName` does: `bfloat16, int8 weights, float8_e4m3fn KV cache`. */
  readonly recipe: string;
  /** SHA-256 over the config and the checkpoint's tensor headers; null for a plan compiled from a config alone. */
  readonly checkpointHash: string | null;
  readonly rank: number;
  readonly worldSize: number;
}

export interface ModelSummary {
  readonly modelType: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  /** Largest context that the plan's tables were made for. */
  readonly maxModelLen: number;
  /** Parameters as published, tied weights once. */
  readonly numParameters: number;
}

/** Largest shapes of a step; buffers are laid out for them. */
export interface StepLimits {
  readonly maxNumBatchedTokens: number;
  readonly maxNumSeqs: number;
  readonly maxNumLogitRows: number;
}

export interface WeightSpec {
  readonly id: number;
  readonly name: string;
  readonly dtype: DType;
  /** `[rows, columns]`, or `[size]` for a vector. */
  readonly shape: readonly number[];
  readonly layout: WeightLayout;
  readonly parts: readonly WeightPart[];
  /** How its codes or scales come from the parts; null for a weight of floats. */
  readonly quantization: ParameterQuantization | null;
  /** Bytes on the device, padding included. */
  readonly bytes: number;
}

/** Cosines and sines of a rotary embedding, computed at load: row p holds cos then sin, `[numPositions, rotaryDim]`. */
export interface RopeTable {
  readonly id: number;
  readonly numPositions: number;
  readonly rotaryDim: number;
  /** `rotaryDim / 2` angles per position. */
  readonly inverseFrequencies: readonly number[];
  /** Cosine and sine are multiplied by it (YaRN's and LongRoPE's attention factor). */
  readonly attentionFactor: number;
  readonly bytes: number;
}

/** A temporary. Its rows follow a symbol; its place in the arena is fixed for the largest step. */
export interface BufferSpec {
  readonly id: number;
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
  /** Byte offset in the activation arena, 64-byte aligned. */
  readonly offset: number;
  readonly bytes: number;
}

/** A view of columns `[columnStart, columnStart + columns)` of a buffer whose rows are `rowStride` elements apart. */
export interface BufferOperand {
  readonly kind: 'buffer';
  readonly id: number;
  readonly columnStart: number;
  readonly columns: number;
  readonly rowStride: number;
}

export type Operand =
  | BufferOperand
  | { readonly kind: 'weight'; readonly id: number }
  | { readonly kind: 'ropeTable'; readonly id: number }
  | { readonly kind: 'input'; readonly name: StepInputName; readonly group: number }
  | { readonly kind: 'kvCache'; readonly layer: number }
  /** An optional operand that this launch lacks (a linear layer without bias). */
  | { readonly kind: 'none' };

export interface Launch {
  /** The op of the graph that it computes; its operands' order is the op's. */
  readonly op: string;
  readonly label: string;
  readonly inputs: readonly Operand[];
  readonly outputs: readonly Operand[];
  readonly attributes: Attributes;
  /** Ordered by `maxRows`; the first that fits is taken. */
  readonly variants: readonly KernelVariant[];
  /** The symbol that counts the launch's rows. */
  readonly rows: 'numTokens' | 'numSeqs' | 'numLogitRows';
}

/** Layers that share a block table. */
export interface KVCacheGroup {
  readonly index: number;
  readonly window: number | null;
  readonly layers: readonly KVCacheSpec[];
  /** Bytes of one token's keys and values over the group's layers, on this rank. */
  readonly bytesPerToken: number;
}

export interface Plan {
  readonly header: PlanHeader;
  readonly model: ModelSummary;
  readonly limits: StepLimits;
  /** Tokens in a KV block. */
  readonly blockSize: number;
  readonly weights: readonly WeightSpec[];
  readonly ropeTables: readonly RopeTable[];
  readonly kvCacheGroups: readonly KVCacheGroup[];
  readonly buffers: readonly BufferSpec[];
  /** Size of the arena that all buffers live in. */
  readonly arenaBytes: number;
  /** Bytes of scratch that kernels of this plan may ask for, as they declare it. */
  readonly workspaceBytes: number;
  readonly activationDType: FloatDType;
  readonly launches: readonly Launch[];
  /** The buffer that holds float32 logits `[numLogitRows, vocabSize]` after the last launch. */
  readonly logits: BufferOperand;
  /** Further outputs of the graph, floats of their buffers' types after the last launch; none unless the graph was given them. */
  readonly outputs: readonly NamedOutput[];
}

export interface NamedOutput {
  readonly name: string;
  readonly operand: BufferOperand;
}
