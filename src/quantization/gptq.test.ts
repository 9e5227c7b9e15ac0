import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantizeRows, quantizeRows, type QuantizedRows } from '../tensor/quantize-rows.ts';
import type { GroupedFormat } from '../tensor/weight-format.ts';
import { gptq, GPTQ_OPTIONS } from './gptq.ts';
import { searchRanges } from './range-search.ts';

const [ROWS, COLUMNS] = [12, 32];
const INT4: GroupedFormat = { dtype: 'uint4', groupSize: 16, hasZeros: true };
const INT8: GroupedFormat = { dtype: 'int8', groupSize: COLUMNS, hasZeros: false };
const FLOAT8: GroupedFormat = { dtype: 'float8_e4m3fn', groupSize: COLUMNS, hasZeros: false };

function noise(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    let sum = 0;
    for (let i = 0; i < 6; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      sum += state / 2 ** 32 - 0.5;
    }
    return sum;
  });
}

/** XᵀX of inputs whose columns go together: each is a mixture of few sources, and a little noise of its own. */
function correlatedGram(seed: number): Float64Array {
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
  return gram;
}

/** Mean square of what a product's results lose. */
function outputError(
  values: Float32Array,
  { codes, scales }: QuantizedRows,
  format: GroupedFormat,
  gram: Float64Array,
): number {
  const lost = dequantizeRows(codes, scales, format).map((value, i) => value - values[i]);
  let error = 0;
  for (let start = 0; start < lost.length; start += COLUMNS) {
    for (let a = 0; a < COLUMNS; a++) {
      for (let b = 0; b < COLUMNS; b++) error += lost[start + a] * gram[a * COLUMNS + b] * lost[start + b];
    }
  }
  return error;
}

const diagonal = (gram: Float64Array) => gram.filter((_, i) => i % (COLUMNS + 1) === 0);
const seeds = fc.integer({ min: 1, max: 1e6 });

describe('gptq', () => {
  it.each([true, false])(
    'loses less than half of what rounding loses on correlated inputs (act-order %s)',
    (actOrder) => {
      fc.assert(
        fc.property(seeds, (seed) => {
          const [values, gram] = [noise(ROWS * COLUMNS, seed), correlatedGram(seed + 10)];
          const made = gptq(values, INT4, gram, { ...GPTQ_OPTIONS, actOrder });
          const rounded = outputError(values, quantizeRows(values, INT4), INT4, gram);
          expect(outputError(values, made, INT4, gram)).toBeLessThan(0.5 * rounded);
        }),
        { numRuns: 20 },
      );
    },
  );

  it('gives codes of its type, also where inputs are always 0', () => {
    const values = noise(ROWS * COLUMNS, 3);
    const gram = correlatedGram(5).map((value, i) =>
      i % COLUMNS === 2 || Math.floor(i / COLUMNS) === 2 ? 0 : value,
    );
    const { codes } = gptq(values, INT4, gram, GPTQ_OPTIONS);
    expect(codes.every((code) => Number.isInteger(code) && code >= 0 && code <= 15)).toBe(true);
  });
});

describe('searchRanges', () => {
  it.each([INT4, INT8, FLOAT8])('never weighs more than rounding does: $dtype', (format) => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const [values, gram] = [noise(ROWS * COLUMNS, seed), correlatedGram(seed)];
        const importance = diagonal(gram);
        const alone = gram.map((value, i) => (i % (COLUMNS + 1) === 0 ? value : 0));
        const found = outputError(values, searchRanges(values, format, importance), format, alone);
        expect(found).toBeLessThanOrEqual(
          outputError(values, quantizeRows(values, format), format, alone) * 1.001,
        );
      }),
      { numRuns: 20 },
    );
  });

  it('keeps the scale 1 of a group of zeros', () => {
    const { scales } = searchRanges(new Float32Array(32), INT4, new Float64Array(32).fill(1));
    expect([...scales]).toEqual([1, 0, 1, 0]);
  });
});
