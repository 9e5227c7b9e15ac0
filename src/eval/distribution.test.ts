// Surprise and divergence of distributions, against values worked out by hand and what must hold of any.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { beliefOf, klDivergence, surprise } from './distribution.ts';

const belief = (...logits: number[]) => beliefOf(Float32Array.from(logits));
const logits = fc.array(fc.float({ min: -30, max: 30, noNaN: true }), { minLength: 5, maxLength: 5 });

describe('distributions', () => {
  it('surprise is the negative logarithm of the probability', () => {
    expect(surprise(belief(0, 0, 0, 0), 2)).toBeCloseTo(Math.log(4), 6);
    expect(surprise(belief(Math.log(3), 0), 0)).toBeCloseTo(Math.log(4 / 3), 6);
  });

  it('the most likely token is the first of equal ones', () => {
    expect(belief(1, 5, 5).top).toBe(1);
  });

  it('divergence of (3/4, 1/4) from (1/2, 1/2)', () => {
    const expected = 0.75 * Math.log(1.5) + 0.25 * Math.log(0.5);
    expect(klDivergence(belief(Math.log(3), 0), belief(0, 0))).toBeCloseTo(expected, 6);
  });

  it('divergence is never negative, and zero from itself or from the same logits shifted', () => {
    fc.assert(
      fc.property(logits, logits, (a, b) => {
        expect(klDivergence(belief(...a), belief(...b))).toBeGreaterThan(-1e-6);
        expect(klDivergence(belief(...a), belief(...a.map((x) => x + 2)))).toBeCloseTo(0, 4);
      }),
    );
  });

  it('a token that the baseline bans adds nothing', () => {
    expect(klDivergence(belief(0, -Infinity), belief(0, 0))).toBeCloseTo(Math.log(2), 6);
  });
});
