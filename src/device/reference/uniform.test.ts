import { describe, expect, it } from 'vitest';
import { philox4x32, uniform } from './uniform.ts';

describe('philox4x32', () => {
  // The known answers that the generator's authors publish with their library.
  it.each([
    [[0, 0, 0, 0], 0, 0, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      0xffffffff,
      0xffffffff,
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      0xa4093822,
      0x299f31d0,
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const)('gives the published words for counter %j', (counter, keyLow, keyHigh, words) => {
    expect(philox4x32(counter, keyLow, keyHigh)).toEqual(words);
  });
});

describe('uniform', () => {
  it.each([
    [0, 0, 0, 1713891541],
    [1, 0, 0, 3823634032],
    [0, 1, 0, 4259200523],
    [0xdeadbeef, 0x01234567, 4095, 957179330],
    [0xffffffff, 0xffffffff, 0xffffffff, 3260445406],
  ])('of seed (%i, %i) and position %i is %i / 2³²', (low, high, position, word) => {
    expect(uniform(low, high, position)).toBe(word / 2 ** 32);
  });

  it('is even over [0, 1)', () => {
    const buckets = new Array<number>(16).fill(0);
    for (let position = 0; position < 16_000; position++) buckets[Math.floor(uniform(7, 0, position) * 16)]++;
    expect(buckets).toHaveLength(16);
    for (const count of buckets) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });
});
