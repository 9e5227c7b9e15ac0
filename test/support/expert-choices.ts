// Ids for grouped products: matrices without a row, with all of them, and with a few.
import { matrix, type Matrix } from './cpu-harness.ts';

type Choice = (token: number, slot: number, numMatrices: number) => number;

const CHOICES: Readonly<Record<string, Choice>> = {
  'all matrices in turn': (token, slot, numMatrices) => (token * 3 + slot) % numMatrices,
  'the last ones alone': (_, slot, numMatrices) => numMatrices - 1 - slot,
  'mostly the first': (token, slot, numMatrices) => (token % 9 === 0 ? (slot + 2) % numMatrices : slot),
};

export const EXPERT_CHOICES = Object.keys(CHOICES);

/** `[numTokens, slots]`. */
export function expertChoice(name: string, numTokens: number, numMatrices: number, slots: number): Matrix {
  const ids = Int32Array.from({ length: numTokens * slots }, (_, i) =>
    CHOICES[name](Math.floor(i / slots), i % slots, numMatrices),
  );
  return matrix(numTokens, slots, ids);
}
