import { expect, test } from 'vitest';
import fc from 'fast-check';
import type { EngineOutput, FinishReason } from '../protocol.ts';
import { HeldOutputs } from './held-outputs.ts';

function token(requestId: string, tokenId: number, finishReason: FinishReason | null = null): EngineOutput {
  const nothing = { logprobs: null, promptLogprobs: null, stopTokenId: null, error: null, timing: null };
  return { requestId, index: 0, tokenIds: [tokenId], finishReason, numCachedTokens: 0, ...nothing };
}

const brief = (outputs: readonly EngineOutput[] | null) =>
  outputs?.map(({ requestId, tokenIds }) => [requestId, ...tokenIds]) ?? null;

/** Both requests have had their first tokens, and the interval has just begun. */
function begun(): HeldOutputs {
  const held = new HeldOutputs(20);
  held.release([token('a', 1), token('b', 1)], 100, 1000);
  return held;
}

test('first outputs leave at once', () => {
  const held = begun();
  expect(brief(held.release([token('a', 2), token('c', 1)], 100, 1001))).toEqual([['c', 1]]);
});

test('the others wait until the interval has passed, and leave merged', () => {
  const held = begun();
  expect(held.release([token('a', 2), token('b', 2)], 100, 1010)).toBeNull();
  expect(brief(held.release([token('a', 3), token('b', 3)], 100, 1020))).toEqual([
    ['a', 2, 3],
    ['b', 2, 3],
  ]);
  expect(held.release([token('a', 4)], 100, 1021)).toBeNull();
});

test('an end takes what is held of its request with it, and leaves the others', () => {
  const held = begun();
  held.release([token('a', 2), token('b', 2)], 100, 1003);
  expect(brief(held.release([token('a', 3, 'length'), token('b', 3)], 100, 1006))).toEqual([['a', 2, 3]]);
});

test.each([
  [1, 20, 'one sequence'],
  [100, 0, 'no interval'],
])('nothing waits where %d run, with at most %d ms: %s', (numRunning, maxIntervalMs) => {
  const held = new HeldOutputs(maxIntervalMs);
  for (let step = 0; step < 3; step++)
    expect(brief(held.release([token('a', step)], numRunning, 1000))).toEqual([['a', step]]);
});

test('a step without outputs still gives a sign of life when one is due', () => {
  const held = begun();
  expect(held.release([], 100, 1001)).toBeNull();
  expect(held.release([], 100, 1030)).toEqual([]);
});

test('every token of every request leaves once, in order, and nothing is held after its end', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(lengths, fc.array(fc.nat(9), { minLength: 12, maxLength: 12 }), (numTokens, pausesMs) => {
      const held = new HeldOutputs(20);
      const got = numTokens.map((): number[] => []);
      let nowMs = 0;
      for (let step = 0; step < 12; step++) {
        const outputs = numTokens.flatMap((length, i) =>
          step < length ? [token(String(i), step, step === length - 1 ? 'length' : null)] : [],
        );
        const released = held.release(outputs, outputs.length, (nowMs += pausesMs[step])) ?? [];
        for (const { requestId, tokenIds } of released) got[Number(requestId)].push(...tokenIds);
        for (const { requestId, finishReason } of outputs)
          if (finishReason !== null)
            expect(got[Number(requestId)]).toHaveLength(numTokens[Number(requestId)]);
      }
      expect(got).toEqual(numTokens.map((length) => Array.from({ length }, (_, i) => i)));
    }),
  );
});
