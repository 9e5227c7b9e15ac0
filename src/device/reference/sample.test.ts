import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { samplingBatch, type SamplingRow } from '../../../test/support/sampling-batch.ts';
import { sampleLogits, type SampleResult } from './sample.ts';
import { uniform } from './uniform.ts';

function sampleOne(logits: number[], row: SamplingRow): SampleResult {
  return sampleLogits(Float32Array.from(logits), logits.length, samplingBatch([row]));
}

/** How often each token is drawn over many positions. */
function histogram(logits: number[], row: SamplingRow, numDraws = 4000): number[] {
  const counts = logits.map(() => 0);
  for (let position = 0; position < numDraws; position++) {
    counts[sampleOne(logits, { ...row, position }).tokenIds[0]]++;
  }
  return counts;
}

const logOf = (probabilities: number[]) => probabilities.map((p) => Math.log(p));

describe('greedy choice', () => {
  it('takes the largest logit, the lower id of equal ones', () => {
    expect(sampleOne([1, 3, 2], { temperature: 0 }).tokenIds[0]).toBe(1);
    expect(sampleOne([1, 3, 3, 3], { temperature: 0 }).tokenIds[0]).toBe(1);
  });

  it('honours bans, biases and penalties', () => {
    const bias = [
      { id: 1, value: -Infinity },
      { id: 0, value: 2.5 },
    ];
    expect(sampleOne([1, 9, 3], { temperature: 0, bias }).tokenIds[0]).toBe(0);
    const history = [{ id: 1, outputCount: 2 }];
    expect(sampleOne([1, 3, 2], { temperature: 0, repetitionPenalty: 2, history }).tokenIds[0]).toBe(2); // 3 → 1.5
    expect(sampleOne([-4, -3, -5], { temperature: 0, repetitionPenalty: 2, history }).tokenIds[0]).toBe(0); // −3 → −6
    expect(sampleOne([1, 3, 2], { temperature: 0, frequencyPenalty: 0.4, history }).tokenIds[0]).toBe(1); // 3 → 2.2
    expect(sampleOne([1, 3, 2], { temperature: 0, frequencyPenalty: 0.6, history }).tokenIds[0]).toBe(2); // 3 → 1.8
    expect(sampleOne([1, 3, 2], { temperature: 0, presencePenalty: 1.1, history }).tokenIds[0]).toBe(2);
  });

  it('spares prompt tokens from presence and frequency penalties', () => {
    const history = [{ id: 1, outputCount: 0 }];
    const row = { temperature: 0, presencePenalty: 2, frequencyPenalty: 2, history };
    expect(sampleOne([1, 3, 2], row).tokenIds[0]).toBe(1);
  });
});

describe('drawing', () => {
  const probabilities = [0.1, 0.4, 0.2, 0.3];

  it('follows the probabilities', () => {
    const counts = histogram(logOf(probabilities), { temperature: 1 });
    counts.forEach((count, id) => expect(Math.abs(count / 4000 - probabilities[id])).toBeLessThan(0.03));
  });

  it('inverts the CDF in order of falling probability', () => {
    for (let position = 0; position < 50; position++) {
      const u = uniform(5, 6, position);
      const expected = u < 0.4 ? 1 : u < 0.7 ? 3 : u < 0.9 ? 2 : 0;
      const row = { temperature: 1, seedLow: 5, seedHigh: 6, position };
      expect(sampleOne(logOf(probabilities), row).tokenIds[0]).toBe(expected);
    }
  });

  it('sharpens with a low temperature', () => {
    const [a, , c] = histogram(logOf(probabilities), { temperature: 0.1 });
    expect(a + c).toBeLessThan(10); // (0.2 / 0.4)^10 ≈ 0.001
  });

  it.each([
    ['top-k', { topK: 2 }, [false, true, false, true]],
    ['top-p reached by two', { topP: 0.65 }, [false, true, false, true]],
    ['top-p reached by one', { topP: 0.3 }, [false, true, false, false]],
    ['top-p of the mass that top-k left', { topK: 2, topP: 0.5 }, [false, true, false, false]], // 0.4 / 0.7
    ['min-p', { minP: 0.6 }, [false, true, false, true]],
    ['top-k beyond the vocabulary', { topK: 99 }, [true, true, true, true]],
  ] as const)('%s keeps the right tokens', (_, row, kept) => {
    const counts = histogram(logOf([...probabilities]), { temperature: 1, ...row }, 500);
    expect(counts.map((count) => count > 0)).toEqual(kept);
  });

  it('never draws a banned token, and says when all are banned', () => {
    const bias = [0, 1, 2, 3].map((id) => ({ id, value: -Infinity }));
    expect(histogram([0, 0, 0, 0], { temperature: 1, bias: bias.slice(0, 3) }, 200)).toEqual([0, 0, 0, 200]);
    const result = sampleOne([0, 0, 0, 0], { temperature: 1, bias, numLogprobs: 1 });
    expect(result).toMatchObject({
      rowStatus: Uint8Array.of(2),
      tokenIds: Int32Array.of(0),
      ranks: Int32Array.of(0),
    });
    expect(result.logprobs[0]).toBeNaN();
  });

  it('depends on seed and position alone, not on the rest of the batch', () => {
    const rowOf = fc.record({
      seedLow: fc.nat(),
      position: fc.nat(1000),
      temperature: fc.constantFrom(0, 0.7, 1, 2),
      topK: fc.constantFrom(0, 3),
      topP: fc.constantFrom(1, 0.8),
    });
    const logits = [0.3, -1, 2, 0.3, 1.1, -0.2, 0.9];
    fc.assert(
      fc.property(fc.array(rowOf, { minLength: 1, maxLength: 5 }), (rows) => {
        const batch = sampleLogits(
          Float32Array.from(rows.flatMap(() => logits)),
          logits.length,
          samplingBatch(rows),
        );
        expect([...batch.tokenIds]).toEqual(rows.map((row) => sampleOne(logits, row).tokenIds[0]));
      }),
    );
  });
});

describe('log-probabilities', () => {
  it('come from the raw logits, with ranks, equal ones by lower id', () => {
    const logits = logOf([0.1, 0.4, 0.1, 0.4]);
    const bias = [
      { id: 1, value: -Infinity },
      { id: 3, value: -Infinity },
      { id: 0, value: -Infinity },
    ];
    const result = sampleOne(logits, { temperature: 0, numLogprobs: 3, bias });
    expect(result.tokenIds[0]).toBe(2);
    expect(result.logprobs[0]).toBeCloseTo(Math.log(0.1), 6);
    expect(result.ranks[0]).toBe(4);
    expect([...result.topIds]).toEqual([1, 3, 0]);
    expect(Math.exp(result.topLogprobs[0])).toBeCloseTo(0.4, 6);
  });

  it('score a given token whatever the sampling parameters say', () => {
    const row = { targetId: 0, temperature: 2, topK: 1, numLogprobs: 0, bias: [{ id: 0, value: -Infinity }] };
    const result = sampleOne(logOf([0.25, 0.75]), row);
    expect(result.tokenIds[0]).toBe(0);
    expect(result.logprobs[0]).toBeCloseTo(Math.log(0.25), 6);
    expect(result.ranks[0]).toBe(2);
  });

  it('are absent where a row wants none, and padded to the widest row', () => {
    const rows = [{ numLogprobs: -1 }, { numLogprobs: 1 }, { numLogprobs: 2 }].map((row) => ({
      ...row,
      temperature: 0,
    }));
    const result = sampleLogits(Float32Array.of(1, 2, 1, 2, 1, 2), 2, samplingBatch(rows));
    expect(result.topCount).toBe(2);
    expect([...result.topIds]).toEqual([-1, -1, 1, -1, 1, 0]);
    expect([...result.ranks]).toEqual([0, 1, 1]);
    expect(result.logprobs[0]).toBeNaN();
  });
});

describe('broken rows', () => {
  it.each([[NaN], [Infinity], [-Infinity]])('%s spoils its own row alone', (value) => {
    const logits = Float32Array.of(value, value, 1, 2);
    const result = sampleLogits(logits, 2, samplingBatch([{ temperature: 0 }, { temperature: 0 }]));
    expect([...result.rowStatus]).toEqual([1, 0]);
    expect(result.tokenIds[1]).toBe(1);
  });
});
