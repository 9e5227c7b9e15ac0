// The arrays of a step as a graph's inputs: their types, and how the interpreter reads them.
import type { StepInputName, ValueType } from './graph.ts';
import type { HostTensor } from './host-tensor.ts';

/**
 * The first dimension stands for what the array has one entry of; `cuSeqlensQ` has one more, and the width of
 * `blockTables` is known to the step alone.
 */
export const STEP_INPUT_TYPES: Readonly<Record<StepInputName, ValueType>> = {
  tokenIds: { dtype: 'int32', shape: ['numTokens'] },
  positions: { dtype: 'int32', shape: ['numTokens'] },
  slotMapping: { dtype: 'int32', shape: ['numTokens'] },
  blockTables: { dtype: 'int32', shape: ['numSeqs'] },
  cuSeqlensQ: { dtype: 'int32', shape: ['numSeqs'] },
  contextLens: { dtype: 'int32', shape: ['numSeqs'] },
  logitRows: { dtype: 'int32', shape: ['numLogitRows'] },
};

/** What the interpreter needs of a step; a device's `StepBatch` is one. */
export interface StepArrays {
  readonly tokenIds: Int32Array;
  readonly positions: Int32Array;
  readonly cuSeqlensQ: Int32Array;
  readonly contextLens: Int32Array;
  readonly logitRows: Int32Array;
  readonly groups: readonly {
    readonly slotMapping: Int32Array;
    readonly blockTables: Int32Array;
    readonly maxBlocksPerSeq: number;
  }[];
  readonly blockCopies: Int32Array;
}

export function stepInput(step: StepArrays, name: StepInputName, group: number): HostTensor {
  if (name === 'slotMapping') return vector(step.groups[group].slotMapping);
  if (name !== 'blockTables') return vector(step[name]);
  const { blockTables, maxBlocksPerSeq } = step.groups[group];
  return { shape: [step.contextLens.length, maxBlocksPerSeq], data: blockTables };
}

function vector(data: Int32Array): HostTensor {
  return { shape: [data.length], data };
}
