import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  interTokenGapsMs,
  meetsServiceLevel,
  percentile,
  percentiles,
  servingMetrics,
  steadyState,
  tpotMs,
} from './metrics.ts';

const request = (sentMs: number, tokenMs: number[], inputTokens = 10) => ({
  sentMs,
  tokenMs,
  inputTokens,
  outputTokens: tokenMs.length,
});

describe('percentile', () => {
  it('is linear between neighbours', () => {
    expect(percentile([10, 20, 30, 40], 50)).toBe(25);
    expect(percentile([10, 20, 30, 40], 90)).toBeCloseTo(37);
    expect(percentile([7], 99)).toBe(7);
    expect(percentile([], 50)).toBeNaN();
  });

  it('lies between least and greatest, and rises with p', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ noNaN: true, min: -1e6, max: 1e6 }), { minLength: 1 }), (values) => {
        const { p50, p90, p99, n } = percentiles(values);
        expect(n).toBe(values.length);
        expect(p50).toBeGreaterThanOrEqual(Math.min(...values));
        expect(p90).toBeGreaterThanOrEqual(p50);
        expect(p99).toBeGreaterThanOrEqual(p90);
        expect(p99).toBeLessThanOrEqual(Math.max(...values));
      }),
    );
  });
});

describe('request times', () => {
  it('give TPOT over the tokens after the first', () => {
    expect(tpotMs(request(0, [100, 110, 140]))).toBe(20);
    expect(tpotMs(request(0, [100]))).toBeNaN();
  });

  it('give a gap of zero to tokens that came together', () => {
    expect(interTokenGapsMs(request(0, [5, 5, 9]))).toEqual([0, 4]);
  });

  it('count for goodput only within every bound', () => {
    const r = request(0, [100, 110, 140]);
    expect(meetsServiceLevel(r, { ttftMs: 100, tpotMs: 20, e2elMs: null })).toBe(true);
    expect(meetsServiceLevel(r, { ttftMs: 99, tpotMs: 20, e2elMs: null })).toBe(false);
    expect(meetsServiceLevel(r, { ttftMs: null, tpotMs: null, e2elMs: 139 })).toBe(false);
    expect(meetsServiceLevel(request(0, [100]), { ttftMs: null, tpotMs: 1, e2elMs: null })).toBe(true);
  });
});

describe('servingMetrics', () => {
  it('divides by first send to last arrival', () => {
    const metrics = servingMetrics([request(1000, [1500, 2000]), request(1200, [1400, 3000, 3000])], 1, {
      ttftMs: 300,
      tpotMs: null,
      e2elMs: null,
    });
    expect(metrics).toMatchObject({
      completed: 2,
      failed: 1,
      durationSeconds: 2,
      inputTokens: 20,
      outputTokens: 5,
      requestsPerSecond: 1,
      outputTokensPerSecond: 2.5,
      totalTokensPerSecond: 12.5,
      goodputRequestsPerSecond: 0.5,
    });
    expect(metrics.ttftMs).toEqual({ n: 2, p50: 350, p90: 470, p99: 497 });
    expect(metrics.itlMs).toMatchObject({ n: 3, p50: 500 });
    expect(metrics.tpotMs.n).toBe(2);
  });
});

describe('steadyState', () => {
  it('leaves the first generation and the emptying out', () => {
    const samples = [
      { atMs: 100, numRunning: 1, numWaiting: 9, numFinished: 0, outputTokens: 1 },
      { atMs: 200, numRunning: 4, numWaiting: 6, numFinished: 0, outputTokens: 5 },
      { atMs: 300, numRunning: 3, numWaiting: 5, numFinished: 4, outputTokens: 9 },
      { atMs: 400, numRunning: 4, numWaiting: 3, numFinished: 5, outputTokens: 12 },
      { atMs: 900, numRunning: 1, numWaiting: 3, numFinished: 9, outputTokens: 13 },
    ];
    expect(steadyState(samples, false)).toEqual({ outputTokensPerSecond: 30, generations: 0.25 });
    expect(steadyState(samples.slice(0, 3), false)).toBeNull();
    expect(steadyState([], false)).toBeNull();
  });

  it('begins with the first end where sequences are of all ages from the start', () => {
    const samples = [
      { atMs: 100, numRunning: 4, numWaiting: 9, numFinished: 0, outputTokens: 4 },
      { atMs: 200, numRunning: 4, numWaiting: 8, numFinished: 1, outputTokens: 8 },
      { atMs: 300, numRunning: 4, numWaiting: 7, numFinished: 2, outputTokens: 12 },
    ];
    expect(steadyState(samples, true)).toEqual({ outputTokensPerSecond: 40, generations: 0.25 });
    expect(steadyState(samples, false)).toBeNull();
  });
});
