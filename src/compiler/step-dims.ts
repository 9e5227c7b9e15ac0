// What a step's symbols stand for when memory is planned.
import type { DimValues } from '../tensor/shape.ts';
import type { StepLimits } from './plan.ts';

/** The largest step. */
export function stepDims(limits: StepLimits): DimValues {
  return {
    numTokens: limits.maxNumBatchedTokens,
    numSeqs: limits.maxNumSeqs,
    numLogitRows: limits.maxNumLogitRows,
  };
}
