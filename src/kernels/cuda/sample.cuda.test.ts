// Sampling on the GPU against its definition.
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { sampleLogits } from '../../device/reference/sample.ts';
import { randomValues } from '../../../test/support/check-launch.ts';
import { CudaHarness } from '../../../test/support/cuda-harness.ts';
import { describeCuda } from '../../../test/support/cuda.ts';
import { samplingBatch, type SamplingRow } from '../../../test/support/sampling-batch.ts';

/** Logits of a real kind: a few likely tokens, many unlikely ones, and some ties. */
function peakedLogits(vocabSize: number, seed: number): number[] {
  return Array.from(randomValues(vocabSize, seed), (value) => Math.round(value ** 5 * 12 * 64) / 64);
}

const rowOf = fc.record({
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

describeCuda('sampling', () => {
  let harness: CudaHarness;
  beforeAll(async () => {
    harness = await CudaHarness.open();
  });
  afterAll(() => harness.close());

  async function expectSame(logits: readonly number[][], rows: readonly SamplingRow[]): Promise<void> {
    const flat = Float32Array.from(logits.flat());
    const sampling = samplingBatch(rows);
    const actual = await harness.sample(flat, logits[0].length, sampling);
    const expected = sampleLogits(flat, logits[0].length, sampling);
    for (const part of ['tokenIds', 'ranks', 'topCount', 'topIds', 'rowStatus'] as const)
      expect(actual[part], part).toEqual(expected[part]);
    for (const part of ['logprobs', 'topLogprobs'] as const)
      expected[part].forEach((value, i) => {
        if (Number.isNaN(value)) expect(actual[part][i], part).toBeNaN();
        else expect(Math.abs(actual[part][i] - value), part).toBeLessThan(1e-4);
      });
  }

  it('chooses what the definition chooses, whatever the parameters', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(37, 64, 100, 1000),
        fc.nat(1000),
        fc.array(rowOf, { minLength: 1, maxLength: 6 }),
        (vocabSize, seed, rows) =>
          expectSame(
            rows.map((_, i) => peakedLogits(vocabSize, seed + i)),
            rows,
          ),
      ),
      { numRuns: 300, seed: 1 },
    );
  });

  it('chooses so over a large vocabulary, flat or peaked', async () => {
    const vocabSize = 20_011;
    const flat = Array.from(randomValues(vocabSize, 1));
    const rows: SamplingRow[] = [
      { temperature: 0, numLogprobs: 20 },
      { temperature: 1 },
      { temperature: 1, topK: 50 },
      { temperature: 1, topP: 0.9 },
      { temperature: 0.7, topK: 1000, topP: 0.95, minP: 0.01 },
      { temperature: 1, minP: 0.5, numLogprobs: 3 },
      { temperature: 1e9 },
      { targetId: 20_010, numLogprobs: 2 },
    ];
    for (const logits of [flat, peakedLogits(vocabSize, 2), new Array<number>(vocabSize).fill(-1.5)]) {
      const placed = rows.map((row) => ({ ...row, position: 1, seedLow: 99 }));
      await expectSame(
        rows.map(() => logits),
        placed,
      );
    }
  });

  it('draws with the probabilities that the parameters leave', async () => {
    const probabilities = [0.05, 0.3, 0.2, 0.1, 0.35];
    const logits = probabilities.map((p) => Math.log(p));
    const numDraws = 4096;
    const rows = Array.from({ length: numDraws }, (_, position) => ({
      temperature: 1,
      topK: 4,
      position,
      seedLow: 5,
    }));
    const { tokenIds } = await harness.sample(
      Float32Array.from(rows.flatMap(() => logits)),
      5,
      samplingBatch(rows),
    );
    const counts = probabilities.map((_, id) => tokenIds.filter((token) => token === id).length);
    expect(counts[0]).toBe(0);
    const chiSquare = [1, 2, 3, 4].reduce((sum, id) => {
      const wanted = (probabilities[id] / 0.95) * numDraws;
      return sum + (counts[id] - wanted) ** 2 / wanted;
    }, 0);
    expect(chiSquare).toBeLessThan(16.3); // three degrees of freedom: exceeded once in a thousand
  });

  it('tells rows with NaN, Infinity or nothing to draw from well ones', async () => {
    const well = peakedLogits(40, 3);
    const bias = well.map((_, id) => ({ id, value: -Infinity }));
    const rows: SamplingRow[] = [
      { temperature: 0 },
      {},
      { temperature: 0 },
      {},
      { bias },
      { bias: bias.slice(1) },
    ];
    const broken = [well.with(17, NaN), well.with(17, Infinity), well.map(() => -Infinity)];
    await expectSame([...broken, well, well, well], rows);
  });
});
