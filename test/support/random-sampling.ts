// Random logits and sampling parameters, the same for every device's sampling.
import fc from 'fast-check';
import { randomValues } from './check-launch.ts';

/** Logits of a real kind: a few likely tokens, many unlikely ones, and some ties. */
export function peakedLogits(vocabSize: number, seed: number): number[] {
  return Array.from(randomValues(vocabSize, seed), (value) => Math.round(value ** 5 * 12 * 64) / 64);
}

/** Parameters of one row, extremes among them, over a vocabulary of 37. */
export const rowOf = fc.record({
  targetId: fc.constantFrom(-1, -1, -1, 3),
  temperature: fc.constantFrom(0, 1e-30, 1e-9, 0.3, 0.7, 1, 2.5, 1e9),
  topK: fc.constantFrom(0, 0, 1, 2, 40, 1000),
  topP: fc.constantFrom(1, 1, 0.999, 0.9, 0.5, 1e-6),
  minP: fc.constantFrom(0, 0, 0.05, 0.9, 1),
  repetitionPenalty: fc.constantFrom(1, 1.3, 0.8),
  presencePenalty: fc.constantFrom(0, 0.5, -0.5),
  frequencyPenalty: fc.constantFrom(0, 0.25),
  seedLow: fc.nat(0xffffffff),
  seedHigh: fc.nat(0xffffffff),
  position: fc.nat(0xffffffff),
  numLogprobs: fc.constantFrom(-1, 0, 1, 5, 20),
  bias: fc.array(fc.record({ id: fc.nat(36), value: fc.constantFrom(-Infinity, -3, 1.5, 100) }), {
    maxLength: 5,
  }),
  history: fc.uniqueArray(fc.record({ id: fc.nat(36), outputCount: fc.nat(4) }), {
    maxLength: 6,
    selector: ({ id }) => id,
  }),
});
