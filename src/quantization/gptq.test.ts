import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantizeRows, quantizeRows, type QuantizedRows } from '../tensor/quantize-rows.ts';
import { PLAIN_MATH } from '../tensor/calibration-math.ts';
import { addProduct } from '../tensor/matrix-product.ts';
import { factorCholesky } from './cholesky.ts';
import { makeUpForDrift } from './drift.ts';
import { gptq, GPTQ_OPTIONS, prepareGptq } from './gptq.ts';
import { CrossGram, damped } from './gram.ts';
import { timesTransposed } from './matrix.ts';
import { searchRanges } from './range-search.ts';
import { randomNumbers } from '../../test/support/random-numbers.ts';

const [ROWS, COLUMNS] = [12, 32];
const INT4 = { dtype: 'uint4', groupSize: 16, hasZeros: true } as const;

function noise(count: number, seed: number): Float32Array {
  const random = randomNumbers(seed);
  return Float32Array.from({ length: count }, () => {
    let sum = 0;
    for (let i = 0; i < 6; i++) sum += random() - 0.5;
    return sum;
  });
}

/** XᵀX of inputs whose columns go together: each is a mixture of few sources, and a little noise of its own. */
function correlatedGram(seed: number): Float32Array {
  const [numRows, numSources] = [256, 4];
  const [sources, mixture, own] = [numRows, COLUMNS, numRows].map((count, i) =>
    noise(count * (i === 2 ? COLUMNS : numSources), seed + i),
  );
  const gram = new Float64Array(COLUMNS * COLUMNS);
  const row = new Float64Array(COLUMNS);
  for (let r = 0; r < numRows; r++) {
    row.forEach((_, c) => {
      row[c] = 0.2 * own[r * COLUMNS + c];
      for (let s = 0; s < numSources; s++)
        row[c] += sources[r * numSources + s] * mixture[c * numSources + s];
    });
    gram.forEach((_, i) => (gram[i] += (row[Math.floor(i / COLUMNS)] * row[i % COLUMNS]) / numRows));
  }
  return Float32Array.from(gram);
}

/** Mean square of what a product's results lose. */
function outputError(values: Float32Array, { codes, scales }: QuantizedRows, gram: Float32Array): number {
  const lost = dequantizeRows(codes, scales, INT4).map((value, i) => value - values[i]);
  let error = 0;
  for (let start = 0; start < lost.length; start += COLUMNS) {
    for (let a = 0; a < COLUMNS; a++) {
      for (let b = 0; b < COLUMNS; b++) error += lost[start + a] * gram[a * COLUMNS + b] * lost[start + b];
    }
  }
  return error;
}

/** What lies between columns of different groups left out. */
function withinGroups(gram: Float32Array): Float32Array {
  const group = (i: number): number => Math.floor(i / INT4.groupSize);
  return gram.map((value, i) => (group(Math.floor(i / COLUMNS)) === group(i % COLUMNS) ? value : 0));
}

const seeds = fc.integer({ min: 1, max: 1e6 });

describe('gptq', () => {
  it.each([true, false])(
    'loses less than half of what rounding loses on correlated inputs (act-order %s)',
    async (actOrder) => {
      const check = async (seed: number): Promise<void> => {
        const [values, gram] = [noise(ROWS * COLUMNS, seed), correlatedGram(seed + 10)];
        const input = await prepareGptq(gram, { ...GPTQ_OPTIONS, actOrder }, addProduct);
        const made = await gptq(values, INT4.groupSize, input, PLAIN_MATH);
        const rounded = outputError(values, quantizeRows(values, INT4), gram);
        expect(outputError(values, made, gram)).toBeLessThan(0.5 * rounded);
      };
      await fc.assert(fc.asyncProperty(seeds, check), { numRuns: 20 });
    },
  );

  it('brings each element of errors · L to 0 as far as its column can', async () => {
    // More columns than one block of products has; the best of 16 codes, judged by the loss itself.
    const columns = 160;
    const values = noise(4 * columns, 7);
    const gram = Float32Array.from({ length: columns * columns }, (_, i) => {
      const [a, b] = [Math.floor(i / columns), i % columns];
      return a === b ? 1.1 : 0.9 ** Math.abs(a - b);
    });
    const input = await prepareGptq(gram, { actOrder: false, damping: 0 }, addProduct);
    const { codes, scales } = await gptq(values, 32, input, PLAIN_MATH);
    const format = { ...INT4, groupSize: 32 };
    const written = dequantizeRows(codes, scales, format);
    const factor = gram.slice();
    // Columns come in their own order: the first is the last of the factored ones.
    factor.forEach((_, i) => (factor[i] = gram[gram.length - 1 - i]));
    await factorCholesky(factor, columns, addProduct);
    for (let row = 0; row < 4; row++) {
      for (let place = columns - 1; place >= 0; place--) {
        const at = (i: number): number => row * columns + columns - 1 - i;
        let element = 0;
        for (let i = place; i < columns; i++) {
          element += (written[at(i)] - values[at(i)]) * factor[i * columns + place];
        }
        const code = codes[at(place)];
        const step = scales[2 * Math.floor(at(place) / 32)] * factor[place * (columns + 1)];
        if (code > 0 && code < 15) expect(Math.abs(element)).toBeLessThan(0.51 * step);
      }
    }
  });

  it('gives codes of its type, also where inputs are always 0', async () => {
    const values = noise(ROWS * COLUMNS, 3);
    const gram = correlatedGram(5).map((value, i) =>
      i % COLUMNS === 2 || Math.floor(i / COLUMNS) === 2 ? 0 : value,
    );
    const input = await prepareGptq(gram, GPTQ_OPTIONS, addProduct);
    const { codes } = await gptq(values, INT4.groupSize, input, PLAIN_MATH);
    expect(codes.every((code) => Number.isInteger(code) && code >= 0 && code <= 15)).toBe(true);
  });
});

describe('searchRanges', () => {
  it('never loses more than rounding does, between the columns of a group', async () => {
    const check = async (seed: number): Promise<void> => {
      const [values, gram] = [noise(ROWS * COLUMNS, seed), withinGroups(correlatedGram(seed))];
      const found = await searchRanges(values, INT4.groupSize, gram, PLAIN_MATH);
      const rounded = outputError(values, quantizeRows(values, INT4), gram);
      expect(outputError(values, found, gram)).toBeLessThan(rounded);
    };
    await fc.assert(fc.asyncProperty(seeds, check), { numRuns: 20 });
  });

  it('keeps the scale 1 of a group of zeros', async () => {
    const gram = Float32Array.from({ length: 32 * 32 }, (_, i) => (i % 33 === 0 ? 1 : 0));
    const { scales, codes } = await searchRanges(new Float32Array(32), 16, gram, PLAIN_MATH);
    expect([...scales]).toEqual([1, 0, 1, 0]);
    expect([...codes]).toEqual([...new Float32Array(32)]);
  });
});

describe('makeUpForDrift', () => {
  const text = (seed: number): Float32Array => noise(200 * COLUMNS, seed);

  async function statisticsOf(x: Float32Array, drifted: Float32Array) {
    const [gram, drift] = [0, 1].map(() => new CrossGram(COLUMNS, COLUMNS, addProduct));
    await gram.add(drifted, drifted);
    await drift.add(x, drifted, drifted);
    const factor = await factorCholesky(damped(gram.mean(), 0.01), COLUMNS, addProduct);
    return { drift: drift.mean(), factor };
  }

  it('leaves weights alone whose inputs are what they were', async () => {
    const [values, x] = [noise(ROWS * COLUMNS, 1), text(2)];
    const { drift, factor } = await statisticsOf(x, x);
    const made = await makeUpForDrift(values, drift, factor, null, addProduct);
    expect(made).toEqual(values);
  });

  it('comes closer to the float results, and closer still to those of a residual stream', async () => {
    const [values, x, noises] = [noise(ROWS * COLUMNS, 1), text(2), text(3)];
    // Columns that went astray together, and a residual stream that went with them.
    const drifted = x.map((value, i) => value + 0.3 * x[i - (i % COLUMNS)] + 0.1 * noises[i]);
    const residual = Float32Array.from({ length: 200 * ROWS }, (_, i) => {
      const row = Math.floor(i / ROWS);
      return -0.2 * drifted[row * COLUMNS + (i % ROWS)];
    });
    const { drift, factor } = await statisticsOf(x, drifted);
    const residuals = new CrossGram(ROWS, COLUMNS, addProduct);
    await residuals.add(residual, drifted);
    const loss = async (weights: Float32Array, missing: number): Promise<number> => {
      const expected = await timesTransposed(x, values, COLUMNS, addProduct);
      const actual = await timesTransposed(drifted, weights, COLUMNS, addProduct);
      return expected.reduce((sum, y, i) => sum + (y + missing * residual[i] - actual[i]) ** 2, 0);
    };
    const alone = await makeUpForDrift(values, drift, factor, null, addProduct);
    expect(await loss(alone, 0)).toBeLessThan(0.5 * (await loss(values, 0)));
    const both = await makeUpForDrift(values, drift, factor, residuals.mean(), addProduct);
    expect(await loss(both, 1)).toBeLessThan(await loss(alone, 1));
  });
});
