// What the orchestrator and its measuring processes say to each other.
/** Types of weights that both engines have in some form: of llama.cpp bf16, f16, q8_0 and q4_0. */
export type ComparedType = 'bfloat16' | 'float16' | 'int8' | 'int4';

/** What `run.ts` passes as the one argument, in JSON. */
export interface ContenderOptions {
  readonly engine: 'needletail' | 'llama.cpp';
  /** A preset's name, or a checkpoint's folder. */
  readonly model: string;
  readonly type: ComparedType;
  readonly numThreads: number;
  readonly measures: readonly string[];
  /** Timings of a measure before a disturbed one is accepted. */
  readonly maxTries: number;
  /** For llama.cpp. */
  readonly scratch: string;
  readonly gguf: string;
  /** `auto` turns it on; some measures are faster without. */
  readonly flashAttention: 'auto' | boolean;
}

/** What it prints, one per measure. */
export interface MeasureResult {
  readonly measure: string;
  readonly tokensPerSecond: number;
  /** Share of the machine's CPU time that other processes took meanwhile; null where the system does not say. */
  readonly othersCpu: number | null;
  readonly engine: string;
}

/** Above this share of CPU time for others a timing is disturbed. */
export const CALM = 0.1;
