// Windows over a text: what is read together, and that every token counts once.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tokenWindows } from './token-windows.ts';

const ids = (count: number) => Int32Array.from({ length: count }, (_, i) => 100 + i);

/** Tokens of the text that count, as places in it. */
function scored(windows: ReturnType<typeof tokenWindows>): number[] {
  return windows
    .flatMap(({ tokenIds, firstScored }) => [...tokenIds.subarray(firstScored)])
    .map((id) => id - 100);
}

describe('tokenWindows', () => {
  it('cuts a text without overlap; the first token of each has nothing before it', () => {
    const windows = tokenWindows(ids(7), { windowLen: 3, stride: 3, bosTokenId: null });
    expect(windows.map(({ tokenIds }) => tokenIds.length)).toEqual([3, 3]);
    expect(scored(windows)).toEqual([1, 2, 4, 5]);
  });

  it('puts the start token before every window, so that every token of the text counts', () => {
    const windows = tokenWindows(ids(5), { windowLen: 3, stride: 3, bosTokenId: 1 });
    expect(windows.map(({ tokenIds }) => [...tokenIds])).toEqual([
      [1, 100, 101],
      [1, 102, 103],
      [1, 104],
    ]);
    expect(scored(windows)).toEqual([0, 1, 2, 3, 4]);
  });

  it('counts every token but the first once where windows overlap, each with all the context there is', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 60 }),
        fc.integer({ min: 2, max: 20 }),
        fc.integer({ min: 1, max: 19 }),
        (count, windowLen, smaller) => {
          const stride = Math.max(1, windowLen - smaller);
          fc.pre(stride < windowLen);
          const windows = tokenWindows(ids(count), { windowLen, stride, bosTokenId: null });
          expect(scored(windows)).toEqual(Array.from({ length: count - 1 }, (_, i) => i + 1));
          for (const { tokenIds } of windows) expect(tokenIds.length).toBeLessThanOrEqual(windowLen);
        },
      ),
    );
  });

  it('refuses a text in which there is nothing to predict', () => {
    expect(() => tokenWindows(ids(1), { windowLen: 8, stride: 8, bosTokenId: null })).toThrow(
      'fewer than two tokens',
    );
  });

  it.each([
    [{ windowLen: 1, stride: 1, bosTokenId: 1 }, 'two tokens at least, not 1'],
    [{ windowLen: 4, stride: 5, bosTokenId: null }, 'start 1 to 4 apart, not 5'],
    [{ windowLen: 4, stride: 0, bosTokenId: null }, 'start 1 to 4 apart, not 0'],
  ])('refuses %j, which would predict nothing or leave text out', (options, message) => {
    expect(() => tokenWindows(ids(9), options)).toThrow(message);
  });
});
