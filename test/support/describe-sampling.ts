// What sampling must do on every device: choose what its definition chooses, and draw with the probabilities that are left.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sampleLogits } from '../../src/device/reference/sample.ts';
import type { SamplingBatch, StepResult } from '../../src/device/step.ts';
import { randomValues } from './check-launch.ts';
import { samplingBatch, type SamplingRow } from './sampling-batch.ts';

/** A device's sampling of logits `[numRows, vocabSize]`. */
export type Sample = (
  logits: Float32Array,
  vocabSize: number,
  sampling: SamplingBatch,
) => Promise<Omit<StepResult, 'logits'>>;

/** Logits of a real kind: a few likely tokens, many unlikely ones, and some ties. */
function peakedLogits(vocabSize: number, seed: number): number[] {
  return Array.from(randomValues(vocabSize, seed), (value) => Math.round(value ** 5 * 12 * 64) / 64);
}

/** Parameters of one row, extremes among them, over a vocabulary of 37. */
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

const PROBABILITIES = [0.05, 0.21, 0.02, 0.11, 0.16, 0.09, 0.005, 0.14, 0.07, 0.03, 0.08, 0.035];

/** Written down anew from the parameters' meaning: penalties, temperature, then each cut of what the last one left. */
function probabilitiesLeft(logits: readonly number[], row: SamplingRow): number[] {
  const scores = logits.map((logit, id) => {
    const seen = row.history?.find((entry) => entry.id === id);
    const biased = logit + (row.bias?.find((entry) => entry.id === id)?.value ?? 0);
    const { repetitionPenalty: r = 1, presencePenalty = 0, frequencyPenalty = 0 } = row;
    const repeated = seen ? (biased > 0 ? biased / r : biased * r) : biased;
    const count = seen?.outputCount ?? 0;
    return (repeated - (count > 0 ? presencePenalty : 0) - count * frequencyPenalty) / (row.temperature ?? 1);
  });
  let p = normalized(scores.map((score) => Math.exp(score)));
  const byRank = [...p.keys()].sort((a, b) => p[b] - p[a]);
  const keep = (ids: readonly number[]): void => {
    p = normalized(p.map((value, id) => (ids.includes(id) ? value : 0)));
  };
  if (row.topK) keep(byRank.slice(0, row.topK));
  const massBefore = (rank: number): number => byRank.slice(0, rank).reduce((sum, id) => sum + p[id], 0);
  keep(byRank.filter((_, rank) => massBefore(rank) < (row.topP ?? 1)));
  keep(byRank.filter((id) => p[id] >= (row.minP ?? 0) * Math.max(...p)));
  return p;
}

function normalized(weights: readonly number[]): number[] {
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

function chiSquare(counts: readonly number[], probabilities: readonly number[]): number {
  const total = counts.reduce((a, b) => a + b);
  return probabilities.reduce(
    (sum, p, i) => (p > 0 ? sum + (counts[i] - p * total) ** 2 / (p * total) : sum),
    0,
  );
}

/** Exceeded once in a thousand; Wilson and Hilferty's approximation (1931). */
function largestChiSquare(degrees: number): number {
  const spread = 2 / (9 * degrees);
  return degrees * (1 - spread + 3.09 * Math.sqrt(spread)) ** 3;
}

const history = [
  { id: 1, outputCount: 2 },
  { id: 4, outputCount: 0 },
  { id: 8, outputCount: 1 },
];
const FILTERS: readonly (readonly [string, SamplingRow])[] = [
  ['nothing', {}],
  ['a low temperature', { temperature: 0.6 }],
  ['a high temperature', { temperature: 2.5 }],
  ['top-k', { topK: 5 }],
  ['top-p', { topP: 0.8 }],
  ['min-p', { minP: 0.2 }],
  ['a repetition penalty', { repetitionPenalty: 1.6, history }],
  ['a presence penalty', { presencePenalty: 0.7, history }],
  ['a frequency penalty', { frequencyPenalty: 0.4, history }],
  ['biases', { bias: [...[0, 5].map((id) => ({ id, value: 0.9 })), { id: 3, value: -Infinity }] }],
  [
    'all of them',
    {
      temperature: 1.5,
      topK: 8,
      topP: 0.9,
      minP: 0.05,
      repetitionPenalty: 1.2,
      presencePenalty: 0.2,
      history,
    },
  ],
];

export function describeSampling(sample: Sample): void {
  async function expectSame(logits: readonly number[][], rows: readonly SamplingRow[]): Promise<void> {
    const vocabSize = logits[0].length;
    const flat = Float32Array.from(logits.flat());
    const sampling = samplingBatch(rows);
    const actual = await sample(flat, vocabSize, sampling);
    const expected = sampleLogits(flat, vocabSize, sampling);
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
      for (let position = 0; position < 2; position++)
        await expectSame(
          rows.map(() => logits),
          rows.map((row) => ({ ...row, position, seedLow: 99 })),
        );
    }
  });

  describe.each(FILTERS)('draws under %s', (_, filter) => {
    const numDraws = 8192;
    const logits = PROBABILITIES.map((p) => Math.log(p));

    it.each([
      ['positions', (draw: number): SamplingRow => ({ position: draw, seedLow: 5 })],
      ['seeds', (draw: number): SamplingRow => ({ position: 3, seedLow: draw, seedHigh: 77 })],
    ])('with the probabilities that are left, over %s', async (_, place) => {
      const rows = Array.from({ length: numDraws }, (_, draw) => ({ ...filter, ...place(draw) }));
      const flat = Float32Array.from(rows.flatMap(() => logits));
      const { tokenIds } = await sample(flat, logits.length, samplingBatch(rows));
      const wanted = probabilitiesLeft(logits, filter);
      const counts = wanted.map((_, id) => tokenIds.filter((token) => token === id).length);
      wanted.forEach((p, id) => {
        if (p === 0) expect(counts[id], `token ${id} is cut`).toBe(0);
      });
      expect(chiSquare(counts, wanted)).toBeLessThan(
        largestChiSquare(wanted.filter((p) => p > 0).length - 1),
      );
    });
  });

  it('draws by logits, seed and position alone, whatever stands beside a row', async () => {
    const vocabSize = 100;
    const rows = fc
      .sample(rowOf, { numRuns: 64, seed: 4 })
      .map((row) => ({ ...row, bias: [], numLogprobs: -1 }));
    const logitsOf = (i: number): number[] => peakedLogits(vocabSize, i);
    const draw = async (order: readonly number[]): Promise<Map<number, number>> => {
      const flat = Float32Array.from(order.flatMap(logitsOf));
      const { tokenIds } = await sample(flat, vocabSize, samplingBatch(order.map((i) => rows[i])));
      return new Map(order.map((i, row) => [i, tokenIds[row]]));
    };
    const together = await draw([...rows.keys()]);
    for (const order of [[...rows.keys()].reverse(), [17, 3, 60], [42]])
      for (const [i, token] of await draw(order)) expect(token).toBe(together.get(i));
  });

  it('tells rows with NaN, Infinity or nothing to draw from well ones', async () => {
    const well = peakedLogits(40, 3);
    const broken = (value: number): number[] => well.with(17, value);
    const bias = well.map((_, id) => ({ id, value: -Infinity }));
    const rows: SamplingRow[] = [
      { temperature: 0 },
      {},
      { numLogprobs: 2 },
      { temperature: 0 },
      {},
      { bias },
      { bias: bias.slice(1) },
    ];
    const logits = [broken(NaN), broken(NaN), broken(Infinity), well.map(() => -Infinity), well, well, well];
    const { rowStatus } = await sample(Float32Array.from(logits.flat()), 40, samplingBatch(rows));
    expect([...rowStatus]).toEqual([1, 1, 1, 1, 0, 2, 0]);
    await expectSame(logits, rows);
  });
}
