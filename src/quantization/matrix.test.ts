import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { inverseUpperCholesky, someRows, timesTransposed, transposed, withColumnsScaled } from './matrix.ts';

const sizes = fc.record({ n: fc.integer({ min: 1, max: 9 }), size: fc.integer({ min: 1, max: 11 }) });

function values(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(seed + 1.7 * i * (i + seed)));
}

describe('timesTransposed', () => {
  it('multiplies rows with rows', () => {
    const product = timesTransposed(Float32Array.of(1, 2, 3, 4), Float32Array.of(5, 6, 7, 8, 9, 10), 2);
    expect([...product]).toEqual([17, 23, 29, 39, 53, 67]);
  });

  it('is symmetric in its operands', () => {
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 9 }), ({ n, size }, m) => {
        const [a, b] = [values(n * size, 1), values(m * size, 2)];
        expect(transposed(timesTransposed(a, b, size), m)).toEqual(timesTransposed(b, a, size));
      }),
    );
  });
});

describe('inverseUpperCholesky', () => {
  it('gives a triangle U with UᵀU · A = 1', () => {
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 100 }), ({ size }, seed) => {
        const rows = values(20 * size, seed);
        const gram = Float64Array.from(
          timesTransposed(transposed(rows, size), transposed(rows, size), 20),
          (value, i) => value + (i % (size + 1) === 0 ? 0.1 : 0),
        );
        const upper = inverseUpperCholesky(gram, size);
        for (let i = 0; i < size; i++) {
          for (let j = 0; j < size; j++) {
            if (j < i) expect(upper[i * size + j]).toBe(0);
            let product = 0;
            for (let k = 0; k < size; k++) {
              for (let u = 0; u < size; u++) {
                product += upper[u * size + i] * upper[u * size + k] * gram[k * size + j];
              }
            }
            expect(product).toBeCloseTo(i === j ? 1 : 0, 3);
          }
        }
      }),
    );
  });

  it('refuses a matrix that is not positive definite', () => {
    expect(() => inverseUpperCholesky(Float64Array.of(1, 2, 2, 1), 2)).toThrow(RangeError);
  });
});

it('someRows takes rows that are evenly spread', () => {
  expect([...someRows(Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), 2, 3)]).toEqual([
    0, 1, 4, 5, 8, 9,
  ]);
});

it('withColumnsScaled multiplies each column by its factor', () => {
  expect([...withColumnsScaled(Float32Array.of(1, 2, 3, 4), [2, 10])]).toEqual([2, 20, 6, 40]);
});
