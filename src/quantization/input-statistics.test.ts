import { describe, expect, it } from 'vitest';
import { InputObserver } from './input-statistics.ts';
import { createRangeObserver } from './range-observers.ts';

const COLUMNS = 5;
const NUM_ROWS = 700;
const rows = Float32Array.from({ length: NUM_ROWS * COLUMNS }, (_, i) => Math.sin(i * i) * ((i % 5) + 1));

function observed(pieces: readonly number[]) {
  const options = {
    columns: COLUMNS,
    numRows: NUM_ROWS,
    sampleSize: 16,
    range: 'absmax',
  } as const;
  const observer = new InputObserver(options);
  let start = 0;
  for (const numRows of pieces) observer.add(rows.subarray(start * COLUMNS, (start += numRows) * COLUMNS));
  return observer.statistics();
}

describe('InputObserver', () => {
  it('finds what the definitions say', () => {
    const { absmax, meanAbs, numRows, range } = observed([NUM_ROWS]);
    expect(numRows).toBe(NUM_ROWS);
    for (let a = 0; a < COLUMNS; a++) {
      const column = rows.filter((_, i) => i % COLUMNS === a);
      expect(absmax[a]).toBe(Math.max(...column.map(Math.abs)));
      expect(meanAbs[a]).toBeCloseTo(column.reduce((sum, x) => sum + Math.abs(x), 0) / NUM_ROWS, 6);
    }
    expect(range).toBe(Math.max(...absmax));
  });

  it('does not depend on the pieces in which rows come', () => {
    const [whole, pieces] = [observed([NUM_ROWS]), observed([1, 300, 255, 144])];
    expect(pieces.absmax).toEqual(whole.absmax);
    expect(pieces.sample).toEqual(whole.sample);
  });

  it('samples rows from all over, and no more than were asked for', () => {
    const { sample } = observed([NUM_ROWS]);
    expect(sample.length).toBe(16 * COLUMNS);
    expect(sample.subarray(0, COLUMNS)).toEqual(rows.subarray(0, COLUMNS));
    expect(sample.subarray(15 * COLUMNS)).toEqual(rows.subarray(660 * COLUMNS, 661 * COLUMNS));
  });
});

describe('range observers', () => {
  const add = (kind: Parameters<typeof createRangeObserver>[0], ...pieces: number[][]) => {
    const observer = createRangeObserver(kind);
    for (const piece of pieces) observer.add(Float32Array.from(piece));
    return observer.range();
  };

  it('absmax is the largest magnitude', () => {
    expect(add('absmax', [1, -3], [2])).toBe(3);
  });

  it('moving follows the pieces slowly', () => {
    expect(add('moving', [1], [11])).toBeCloseTo(2);
  });

  it('a percentile leaves the largest out, whichever piece they are in', () => {
    const uniform = Array.from({ length: 1000 }, (_, i) => (i % 2 === 0 ? -i : i) / 1000);
    for (const pieces of [
      [uniform, [50]],
      [[50], uniform],
      [[0.001], uniform, [50]],
    ]) {
      expect(add({ percentile: 99 }, ...pieces)).toBeCloseTo(0.99, 1);
      expect(add({ percentile: 100 }, ...pieces)).toBeGreaterThanOrEqual(50);
    }
  });

  it('values that are all 0 have the range 0', () => {
    expect(add({ percentile: 50 }, [0, 0], [0])).toBe(0);
  });
});
