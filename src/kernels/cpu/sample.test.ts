import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sampleLogits } from '../../device/reference/sample.ts';
import type { StepResult } from '../../device/step.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { randomValues } from '../../../test/support/check-launch.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';
import { peakedLogits, rowOf } from '../../../test/support/random-sampling.ts';
import { samplingBatch, type SamplingRow } from '../../../test/support/sampling-batch.ts';

describe.each(CpuLibrary.available())('sampling, %s', (arch) => {
  const cpu = useCpuSession(arch);

  async function sample(logits: readonly number[][], rows: readonly SamplingRow[]) {
    const vocabSize = logits[0].length;
    const flat = Float32Array.from(logits.flat());
    const sampling = samplingBatch(rows);
    const actual = await cpu.session.sample(flat, vocabSize, sampling);
    return { actual, expected: { ...sampleLogits(flat, vocabSize, sampling), logits: null } };
  }

  function expectSame(actual: StepResult, expected: StepResult): void {
    for (const part of ['tokenIds', 'ranks', 'topCount', 'topIds', 'rowStatus'] as const) {
      expect(actual[part], part).toEqual(expected[part]);
    }
    for (const part of ['logprobs', 'topLogprobs'] as const) {
      expected[part].forEach((value, i) => {
        if (Number.isNaN(value)) expect(actual[part][i], part).toBeNaN();
        else expect(Math.abs(actual[part][i] - value), part).toBeLessThan(1e-4);
      });
    }
  }

  it('chooses what the definition chooses, whatever the parameters', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(37, 64, 100, 1000),
        fc.nat(1000),
        fc.array(rowOf, { minLength: 1, maxLength: 6 }),
        async (vocabSize, seed, rows) => {
          const { actual, expected } = await sample(
            rows.map((_, i) => peakedLogits(vocabSize, seed + i)),
            rows,
          );
          expectSame(actual, expected);
        },
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
      for (let position = 0; position < 2; position++) {
        const placed = rows.map((row) => ({ ...row, position, seedLow: 99 }));
        const { actual, expected } = await sample(
          rows.map(() => logits),
          placed,
        );
        expectSame(actual, expected);
      }
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
    const { tokenIds } = await cpu.session.sample(
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
    const broken = (value: number) => well.with(17, value);
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
    const { actual, expected } = await sample(logits, rows);
    expect([...actual.rowStatus]).toEqual([1, 1, 1, 1, 0, 2, 0]);
    expectSame(actual, expected);
  });

  it('refuses ids and offsets that are out of range', async () => {
    const logits = Float32Array.from(peakedLogits(40, 3));
    const refuse = (row: SamplingRow, message: string) =>
      expect(cpu.session.sample(logits, 40, samplingBatch([row]))).rejects.toThrow(message);
    await refuse({ targetId: 40 }, 'targetIds[0] is 40');
    await refuse({ bias: [{ id: 40, value: 1 }] }, 'biasIds[0] is 40');
    await refuse({ history: [{ id: -1, outputCount: 1 }] }, 'historyIds[0] is -1');
    await refuse({ numLogprobs: 41 }, 'numLogprobs[0] is 41');
    const bad = { ...samplingBatch([{}]), biasOffsets: Int32Array.of(1, 0) };
    await expect(cpu.session.sample(logits, 40, bad)).rejects.toThrow('biasOffsets');
  });
});
